"""Kernels stored as float16 or int8, dense and sparse, and files that compute in int8."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from harp_tf.deploy import TFLiteClassifier, export_tflite, kernel_nonzeros, sparsify, to_tflite
from harp_tf.deploy.flatbuffer import operator_name, read_model, weight_tensors
from harp_tf.deploy.inspect import read_kernel
from harp_tf.deploy.kernels import match_kernels
from harp_tf.deploy.quantize import quantize_weights
from harp_tf.types import HarpError

STRUCTURES = ["sequential", "residual", "separable", "dense_only", "shared"]


@pytest.mark.parametrize("kind", ["float16", "int8_weights"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_logits_zeros_and_sizes_of_every_structure(case, structure, kind):
    found = case(structure, 0.9)
    dense = quantize_weights(found.dense, kind)
    sparse = sparsify(dense)
    assert len(sparse) < len(dense) < len(found.dense)
    tolerance = (0.01 if kind == "float16" else 0.1) * found.logits.std()
    for data in (dense, sparse):
        for xnnpack in (True, False):
            logits = TFLiteClassifier(data, xnnpack=xnnpack).logits(found.images)
            assert np.sqrt(np.mean((logits - found.logits) ** 2)) < tolerance
    kept = {k.name: k.nonzero for k in kernel_nonzeros(found.dense)}
    for count in kernel_nonzeros(sparse):
        assert 0.9 * kept[count.name] <= count.nonzero <= kept[count.name]
    assert len(match_kernels(read_model(sparse), found.model)) == len(kernel_nonzeros(found.dense))


@pytest.mark.parametrize("structure", ["sequential", "separable"])
def test_int8_rounds_each_output_channel_to_its_own_scale(case, structure):
    dense = case(structure, 0.3).dense
    exact, rounded = read_model(dense), read_model(quantize_weights(dense, "int8_weights"))
    kinds = set()
    for before, after in zip(weight_tensors(exact), weight_tensors(rounded), strict=True):
        wanted, found = read_kernel(exact, before.index), read_kernel(rounded, after.index)
        if rounded.subgraphs[0].tensors[after.index].type != schema.TensorType.INT8:
            continue
        operator = operator_name(rounded, after.operators[0])
        kinds.add(operator)
        axis = 3 if operator == "DEPTHWISE_CONV_2D" else 0
        wanted, found = (np.moveaxis(k, axis, 0).reshape(k.shape[axis], -1) for k in (wanted, found))
        assert np.all(np.abs(found - wanted) <= 0.501 * np.abs(wanted).max(1, keepdims=True) / 127)
    assert kinds == ({"CONV_2D", "FULLY_CONNECTED"} if structure == "sequential" else kinds)
    assert structure != "separable" or "DEPTHWISE_CONV_2D" in kinds


def test_few_weights_are_stored_as_float16_where_scales_would_cost_more():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="few"), layers.Dense(64, name="many")])
    kernel = np.zeros((64, 64), np.float32)
    kernel[3, :] = np.linspace(1, 2, 64)
    model.get_layer("few").kernel.assign(kernel)
    file = read_model(quantize_weights(to_tflite(model), "int8_weights"))
    types = [file.subgraphs[0].tensors[w.index].type for w in weight_tensors(file)]
    assert types == [schema.TensorType.FLOAT16, schema.TensorType.INT8]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("structure", ["sequential", "residual", "dense_only", "separable"])
def test_static_int8_computes_in_int8_and_takes_and_gives_float32(case, structure, sparse, tmp_path):
    found = case(structure, 0.9)
    rng = np.random.default_rng(2)
    images = rng.random((64, *found.images.shape[1:]), np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros(64, np.int32))).batch(10)
    path = tmp_path / "int8.tflite"
    report = export_tflite(
        found.model, path, sparse=sparse, quantize="int8", calibration=dataset, check_images=images[:32]
    )
    assert report.quantize == "int8" and 0 < report.max_logit_difference
    file = read_model(path)
    names = [operator_name(file, operator) for operator in file.subgraphs[0].operators]
    assert names.count("QUANTIZE") >= 1 and names[-1] == "DEQUANTIZE"
    assert ("DENSIFY" in names) == (sparse and structure != "dense_only")
    # No fully-connected kernel is sparse in a file that computes in int8.
    for weight in weight_tensors(file):
        if operator_name(file, weight.operators[0]) == "FULLY_CONNECTED":
            assert file.subgraphs[0].tensors[weight.index].sparsity is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int8"}, "needs calibration images.*Pass training images, calibration=train"),
        ({"quantize": "float16", "calibration": np.zeros((4, 12, 12, 3))}, "other kinds need none.*with calibration"),
        ({"quantize": "int4"}, "quantize must be one of float16, int8_weights, int8, received 'int4'"),
        ({"quantize": "int8", "calibration": tf.data.Dataset.range(0)}, "received an empty dataset"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(small, tmp_path, arguments, message):
    with pytest.raises(HarpError, match=message):
        export_tflite(small.model, tmp_path / "model.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_second_quantisation_changes_nothing(small):
    once = quantize_weights(small.dense, "float16")
    again = quantize_weights(once, "int8_weights")
    np.testing.assert_array_equal(
        TFLiteClassifier(again).logits(small.images), TFLiteClassifier(once).logits(small.images)
    )
