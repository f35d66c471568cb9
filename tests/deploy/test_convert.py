import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from harp_tf.deploy import to_tflite
from harp_tf.deploy.flatbuffer import read_model
from harp_tf.types import HarpError


class PrunedDense(layers.Dense):
    """Stands for a layer of harp_tf; deploy never imports the real ones."""

    __module__ = "harp_tf.layers.wrapper"


def test_batch_dimension_stays_open(small):
    graph = read_model(small.dense).subgraphs[0]
    assert graph.tensors[graph.inputs[0]].shapeSignature.tolist() == [-1, 12, 12, 3]
    assert graph.tensors[graph.outputs[0]].shapeSignature.tolist() == [-1, 10]


def test_file_has_a_signature(small):
    assert [signature.signatureKey for signature in read_model(small.dense).signatureDefs] == [b"serving_default"]


def test_conversion_is_deterministic_and_leaves_the_model_alone(small):
    weights = small.model.get_weights()
    assert to_tflite(small.model) == small.dense
    assert all(np.array_equal(a, b) for a, b in zip(weights, small.model.get_weights()))


def test_conversion_prints_nothing(capfd):
    to_tflite(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_weights_are_float32(small):
    graph = read_model(small.dense).subgraphs[0]
    kernels = [tensor for tensor in graph.tensors if tensor.name.endswith(b"kernel")]
    assert len(kernels) == 4
    assert {tensor.type for tensor in kernels} == {schema.TensorType.FLOAT32}


def test_unstripped_model_is_refused_even_when_nested():
    inner = keras.Sequential([keras.Input((4,)), PrunedDense(3, name="fc")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    with pytest.raises(HarpError, match=r"PrunedDense 'fc'.*strip"):
        to_tflite(model)


def test_unsupported_layer_is_named_in_one_short_message():
    model = keras.Sequential([keras.Input((6, 4)), layers.LSTM(3, name="memory"), layers.Dense(2)])
    with pytest.raises(HarpError, match="memory") as caught:
        to_tflite(model)
    assert len(str(caught.value)) < 1000


def test_fixed_batch_is_refused():
    model = keras.Sequential([keras.Input((4,), batch_size=8), layers.Dense(2)])
    with pytest.raises(HarpError, match="batches of 8"):
        to_tflite(model)


def test_two_outputs_are_refused():
    image = keras.Input((4,))
    model = keras.Model(image, [layers.Dense(2)(image), layers.Dense(3)(image)])
    with pytest.raises(HarpError, match="one output"):
        to_tflite(model)


def test_an_output_in_a_dict_is_refused_and_one_in_a_list_is_not():
    image = keras.Input((4,), name="image")
    logits = layers.Dense(2)(image)
    with pytest.raises(HarpError, match="a tensor, received one in a dict"):
        to_tflite(keras.Model({"image": image}, {"logits": logits}))
    to_tflite(keras.Model([image], [logits]))


@pytest.mark.parametrize("model", [keras.Sequential([layers.Dense(2)]), "model.keras"])
def test_what_is_no_built_model_is_refused(model):
    with pytest.raises(HarpError, match="Expected a"):
        to_tflite(model)
