"""The flat list of calls of a Keras model."""

import keras
import numpy as np
import pytest

from harp_tf.layers.graph import Tensor, graph_of
from harp_tf.types import HarpError


def _execute(graph, inputs):
    """Runs a graph on tensors, real or symbolic."""
    values = {tensor.index: value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for call in graph.calls:
        args, kwargs = keras.tree.map_structure(
            lambda a: values[a.index] if isinstance(a, Tensor) else a, (call.args, call.kwargs)
        )
        results = keras.tree.flatten(call.operation(*args, **kwargs))
        values.update((tensor.index, result) for tensor, result in zip(call.outputs, results, strict=True))
    return [values[tensor.index] for tensor in graph.outputs]


def _nested() -> keras.Model:
    """A nested model that is called twice, with an addition, a concatenation and a shared layer."""
    inner_in = keras.Input((6, 6, 3), name="inner_in")
    inner = keras.Model(
        inner_in,
        keras.layers.ReLU(name="relu")(keras.layers.Conv2D(3, 3, padding="same", name="conv")(inner_in)),
        name="inner",
    )
    stem = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(3, 1, name="stem_conv")], name="stem")
    image = keras.Input((6, 6, 3), name="image")
    x = inner(inner(stem(image)))
    y = keras.layers.Add(name="add")([x, image])
    z = keras.ops.concatenate([y, x * 2.0], axis=-1)
    pool = keras.layers.GlobalAveragePooling2D(name="pool")
    logits = keras.layers.Dense(4, name="head")
    return keras.Model(image, [logits(pool(z)), pool(y)], name="outer")


def test_the_calls_run_in_order_and_give_the_models_outputs():
    model = _nested()
    graph = graph_of(model)
    paths = [call.path for call in graph.calls]
    assert paths.count("inner/conv") == 2 and paths.count("pool") == 2
    assert paths.index("stem/stem_conv") < paths.index("inner/conv") < paths.index("add") < paths.index("head")
    images = np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    for mine, keras_own in zip(_execute(graph, [images]), model(images), strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-6, atol=1e-6)


def test_a_model_can_be_built_anew_from_symbolic_tensors():
    model = _nested()
    graph = graph_of(model)
    inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in graph.inputs]
    flat = keras.Model(inputs, _execute(graph, inputs))
    images = np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    for mine, keras_own in zip(flat(images), model(images), strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-6, atol=1e-6)


def test_several_tensors_keyword_arguments_and_shapes():
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model([query, value], attention(query, value=value))
    graph = graph_of(model)
    (call,) = graph.calls
    assert [t.shape for t in call.inputs] == [(None, 5, 8), (None, 7, 8)] and "value" in call.kwargs
    assert call.outputs[0].shape == (None, 5, 8) and call.outputs == graph.outputs
    arrays = [np.ones((1, 5, 8), np.float32), np.ones((1, 7, 8), np.float32)]
    np.testing.assert_allclose(_execute(graph, arrays)[0], model(arrays), rtol=1e-6)


def test_a_subclassed_model_has_no_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(HarpError, match="subclass"):
        graph_of(Own())
