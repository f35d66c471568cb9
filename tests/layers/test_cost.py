"""Weights and multiply-adds of any Keras model, by hand and against TensorFlow's profiler."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from harp_tf import models
from harp_tf.layers import Cost, kernel_costs, layer_costs, prune, register_kernels
from harp_tf.types import HarpError
from tests.layers.nets import SIZES, small_net


def multiply_adds(model, input_shape=None):
    return {path: cost.multiply_adds for path, cost in layer_costs(model, input_shape).items()}


# One layer by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Dense(5), (4,), [4 * 5]),
        (layers.Dense(5), (3, 6, 4), [4 * 5 * 18]),
        (layers.EinsumDense("abc,cd->abd", (None, 6)), (5, 4), [4 * 6 * 5]),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 6)), (5, 4), [4 * 12 * 5]),
        (layers.EinsumDense("abcd,cde->abe", (None, 6)), (5, 2, 3), [2 * 3 * 6 * 5]),
        (layers.EinsumDense("abc,bd->adc", (6, 4)), (5, 4), [5 * 6 * 4]),
        (layers.EinsumDense("...x,xy->...y", (6,)), (3, 5, 4), [4 * 6 * 15]),
        (layers.Conv1D(6, 3, padding="same"), (10, 4), [3 * 4 * 6 * 10]),
        (layers.Conv1D(6, 3, dilation_rate=2), (10, 4), [3 * 4 * 6 * 6]),
        (layers.Conv2D(8, 3, strides=2, padding="same", groups=2), (9, 9, 4), [3 * 3 * 2 * 8 * 25]),
        (layers.Conv2D(8, 3, dilation_rate=(1, 2)), (9, 9, 4), [9 * 4 * 8 * 7 * 5]),
        (layers.Conv2D(8, 3, data_format="channels_first"), (3, 9, 7), [9 * 3 * 8 * 35]),
        (layers.Conv3D(2, 2), (4, 5, 6, 3), [8 * 3 * 2 * 3 * 4 * 5]),
        (layers.Conv1DTranspose(5, 3, strides=2), (7, 4), [3 * 4 * 5 * 7]),
        (layers.Conv2DTranspose(5, 3, strides=2), (7, 7, 4), [3 * 3 * 4 * 5 * 49]),
        (layers.Conv3DTranspose(5, 2), (3, 3, 3, 2), [8 * 2 * 5 * 27]),
        (layers.DepthwiseConv1D(3), (8, 4), [3 * 4 * 6]),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 4), [9 * 4 * 2 * 16]),
        (layers.SeparableConv1D(5, 3, strides=2), (7, 4), [3 * 4 * 3, 4 * 5 * 3]),
        (layers.SeparableConv2D(5, 3, strides=2), (7, 7, 4), [9 * 4 * 9, 4 * 5 * 9]),
        (layers.TimeDistributed(layers.Conv2D(2, 3, name="inner")), (4, 5, 5, 3), [9 * 3 * 2 * 9 * 4]),
    ],
)
def test_multiply_adds_of_a_layer(layer, shape, expected):
    model = keras.Sequential([keras.Input(shape), layer])
    costs = layer_costs(model)
    assert [cost.multiply_adds for cost in costs.values()] == expected
    assert sum(cost.weights for cost in costs.values()) == sum(v.numpy().size for v in kernels_in(model))
    pruned = prune(model, 0.5, budget="flops", verbose=False)
    assert layer_costs(pruned) == costs
    assert kernel_costs(pruned) == expected


def kernels_in(model):
    return [v for v in model.weights if v.name.endswith("kernel")]


def test_the_costs_of_a_model():
    # 10x10 outputs of the first convolution, 4x4 of the second.
    expected = dict(zip(("conv1", "conv2", "dense1", "dense2"), [144 * 100, 1440 * 16, 48_000, 2100], strict=True))
    assert layer_costs(small_net()) == {
        f"{name}/kernel": Cost(size, expected[name]) for name, size in zip(expected, SIZES, strict=True)
    }


def test_costs_of_pruned_kernels_are_in_the_unit_of_the_spec():
    assert kernel_costs(prune(small_net(), 0.5, verbose=False)) == SIZES
    pruned = prune(small_net(), 0.5, budget="flops", verbose=False)
    assert kernel_costs(pruned) == [144 * 100, 1440 * 16, 48_000, 2100]
    again = prune(small_net(), 0.5, budget="flops", skip=["conv2"], verbose=False)
    assert kernel_costs(again) == [144 * 100, 48_000, 2100]


# Whole models -----------------------------------------------------------------------------------------------------


def test_the_projections_of_attention():
    inputs = keras.Input((10, 8))
    outputs = layers.MultiHeadAttention(2, 3, value_dim=5, name="attention")(inputs, inputs)
    assert multiply_adds(keras.Model(inputs, outputs)) == {
        "attention/query/kernel": 8 * 6 * 10,
        "attention/key/kernel": 8 * 6 * 10,
        "attention/value/kernel": 8 * 10 * 10,
        "attention/attention_output/kernel": 10 * 8 * 10,
    }


def test_a_shared_layer_costs_every_call():
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    trunk = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 1, name="inner")], name="trunk")
    inputs = keras.Input((8, 8, 4))
    half = layers.AveragePooling2D(2)(shared(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(shared(half)) + 0.0))
    expected = {"shared/kernel": 144 * (64 + 16), "head/kernel": 64 * 2}
    assert multiply_adds(model) == multiply_adds(prune(model, 0.5, verbose=False)) == expected
    twice = keras.Model(inputs, trunk(trunk(inputs)))
    assert multiply_adds(twice) == {"trunk/inner/kernel": 16 * 64 * 2}


def test_models_with_several_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((None, 3), name="b", dtype="float32")
    pooled = layers.GlobalAveragePooling1D()(layers.Dense(2, name="y")(b))
    outputs = layers.Concatenate()([layers.Dense(3, name="x")(a), pooled])
    shapes = [([a, b], [(4,), (5, 3)]), ({"b": b, "a": a}, {"a": (4,), "b": (5, 3)})]
    for inputs, given in shapes:
        assert multiply_adds(keras.Model(inputs, outputs), given) == {"x/kernel": 12, "y/kernel": 30}
    with pytest.raises(HarpError, match=r"must hold 2 shapes, one per input of model .*, received \(4,\)"):
        layer_costs(keras.Model([a, b], outputs), (4,))


def test_integer_inputs_and_mixed_precision():
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 8)(tokens)
    model = keras.Model(tokens, layers.Dense(3, name="head", dtype="mixed_bfloat16")(x))
    assert multiply_adds(model) == {"head/kernel": 24 * 7}


def test_windows_folded_into_the_batch_axis_count():
    inputs = keras.Input((8, 8, 4))
    windows = keras.ops.reshape(inputs, (-1, 4, 4, 4))
    model = keras.Model(inputs, layers.Conv2D(3, 3, name="conv")(windows))
    assert multiply_adds(model) == {"conv/kernel": 108 * 4 * 4}


class Subclassed(keras.Model):
    """Calls its convolution twice, whatever a graph of layers would say."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.conv = layers.Conv2D(4, 3, padding="same", name="conv")
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(keras.ops.mean(self.conv(self.conv(inputs)), axis=(1, 2)))


def test_a_subclassed_model():
    model = Subclassed()
    with pytest.raises(HarpError, match="'subclassed' has no weights yet"):
        layer_costs(model)
    model.build((None, 6, 6, 4))  # of the model only
    with pytest.raises(HarpError, match="has no conv/kernel, head/kernel yet. Call it on a batch first"):
        layer_costs(model)
    model(np.zeros((2, 6, 6, 4)))
    assert multiply_adds(model) == {"conv/kernel": 144 * 36 * 2, "head/kernel": 8}
    assert multiply_adds(model, (3, 3, 4)) == {"conv/kernel": 144 * 9 * 2, "head/kernel": 8}


def test_a_layer_of_the_users_own():
    class Gated(layers.Layer):
        def build(self, input_shape):
            self.gate = self.add_weight(name="gate", shape=(input_shape["x"][-1], 6))

        def call(self, inputs):
            return {"gated": keras.ops.sigmoid(keras.ops.matmul(inputs["x"], self.gate)), "scale": inputs["scale"]}

    register_kernels(Gated, "gate")
    inputs = {"x": keras.Input((5, 4)), "scale": keras.Input(())}
    model = keras.Model(inputs, Gated(name="gated")(inputs))
    assert layer_costs(model) == {"gated/gate": Cost(24, 24 * 5)}


def test_counting_leaves_the_model_as_it_was():
    model = small_net()
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 1)).astype(np.float32)
    before, attributes = model(images), {layer: set(vars(layer)) for layer in model.layers}
    layer_costs(model)
    with pytest.raises(HarpError):
        layer_costs(model, (3, 3, 1))
    np.testing.assert_array_equal(model(images), before)
    assert {layer: set(vars(layer)) for layer in model.layers} == attributes


def test_an_open_input_size():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3, name="conv"), layers.GlobalAveragePooling2D()], name="open"
    )
    assert multiply_adds(model, (10, 8, 3)) == {"conv/kernel": 108 * 8 * 6}
    assert kernel_costs(prune(model, 0.5, verbose=False)) == [108]
    with pytest.raises(HarpError, match=r"FLOPs of model 'open' depend on its input size, .*None.* budget='weights'"):
        prune(model, 0.5, budget="flops", verbose=False)
    with pytest.raises(HarpError, match=r"'open' cannot be called with inputs of the shapes \[\(10, 8, 5\)\]"):
        layer_costs(model, (10, 8, 5))


def test_shapes_that_depend_on_values():
    class Positive(layers.Layer):
        def call(self, inputs):
            return tf.boolean_mask(inputs, inputs[:, 0] > 0)[None]

        def compute_output_shape(self, input_shape):
            return (1, None, *input_shape[1:])

    model = keras.Sequential([keras.Input((4,)), Positive(), layers.Dense(2, name="head")])
    with pytest.raises(HarpError, match=r"FLOPs of layer 'head' depend on the values of its inputs: .*None"):
        layer_costs(model)


# Against the profiler ---------------------------------------------------------------------------------------------

_OPERATIONS = ("BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative", "MatMul")


def profiled(model):
    """Multiply-adds that TensorFlow's profiler counts in the frozen graph; two FLOPs are one."""
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    frozen = convert_variables_to_constants_v2(tf.function(lambda x: model(x)).get_concrete_function(spec))
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
        builder = tf.compat.v1.profiler.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        node = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    total, nodes = 0, [node]
    while nodes:
        node = nodes.pop()
        nodes += node.children
        total += node.float_ops if node.name in _OPERATIONS else 0
    return total // 2


def transformer():
    """A vision transformer of two blocks; the profiler knows no Einsum, so its attention counts projections only."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 32))(layers.Conv2D(32, 4, strides=4)(inputs))
    for _ in range(2):
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(h, h)])
        h = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32)(h)])
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def application(name):
    return lambda: getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(transformer, id="transformer"),
        pytest.param(lambda: models.build("vgg28", (28, 28, 1), 10), id="vgg28"),
        pytest.param(lambda: models.build("resnet18", (32, 32, 3), 10), id="resnet18", marks=pytest.mark.slow),
        pytest.param(application("MobileNetV2"), id="MobileNetV2", marks=pytest.mark.slow),
        pytest.param(application("EfficientNetB0"), id="EfficientNetB0", marks=pytest.mark.slow),
        pytest.param(application("DenseNet121"), id="DenseNet121", marks=pytest.mark.slow),
    ],
)
def test_the_profiler_counts_the_same(build):
    model = build()
    assert sum(cost.multiply_adds for cost in layer_costs(model).values()) == profiled(model)
    assert len(layer_costs(model)) == len(kernels_in(model))
