import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from harp_tf.deploy import file_sizes, kernel_nonzeros
from harp_tf.deploy.flatbuffer import read_model, weight_tensors, write_model
from harp_tf.deploy.inspect import read_kernel
from harp_tf.deploy.quiet import captured_output
from harp_tf.types import HarpError


def test_kernels_come_in_execution_order_with_shapes(case):
    kernels = kernel_nonzeros(case("separable", 0.9).sparse)
    assert [(kernel.name, kernel.shape) for kernel in kernels] == [
        ("stem/kernel", (16, 3, 3, 3)),
        ("depthwise/kernel", (1, 5, 5, 32)),
        ("separable/depthwise_kernel", (1, 3, 3, 32)),
        ("separable/pointwise_kernel", (48, 1, 1, 32)),
        ("grouped/kernel", (48, 3, 3, 12)),
        ("transposed/kernel", (32, 3, 3, 48)),
        ("logits/kernel", (10, 1, 1, 32)),
    ]
    assert all(kernel.weights == np.prod(kernel.shape) for kernel in kernels)


def test_same_shaped_kernels_of_a_residual_network_keep_their_names(case):
    made = case("residual", 0.95)
    assert len({nonzero for path, nonzero in made.nonzeros.items() if path[0] in "abc"}) < 6  # counts alone cannot tell
    names = [kernel.name for kernel in kernel_nonzeros(made.dense)]
    assert sorted(names) == sorted(made.nonzeros)
    assert names.index("a1/kernel") < names.index("a2/kernel") < names.index("c1/kernel") < names.index("c2/kernel")


def test_shared_kernel_scaled_by_two_batch_norms_is_listed_for_both(case):
    names = [kernel.name for kernel in kernel_nonzeros(case("shared", 0.95).dense)]
    assert names == ["shared/kernel", "shared/kernel", "inner/conv/kernel", "logits/kernel"]


@pytest.mark.parametrize("sparsity", [0.5, 0.97])
def test_reads_the_converters_own_sparse_files(sparsity):
    # An encoder that is not ours, with blocks at one of these sparsities: a check on the decoder.
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64), layers.ReLU(), layers.Dense(64)])
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            blocks = np.repeat(rng.random((16, 64)) >= sparsity, 4, axis=0)
            layer.kernel.assign(layer.kernel * blocks)
    with captured_output():
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        data = converter.convert()
    kernels = kernel_nonzeros(data)
    assert [kernel.sparse for kernel in kernels] == [True, True]
    assert [kernel.nonzero for kernel in kernels] == [
        np.count_nonzero(layer.kernel) for layer in model.layers if layer.weights
    ]
    assert [kernel.layer for kernel in kernels] == [None, None]


def test_int8_weights_are_read_with_their_scales():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    with captured_output():
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        data = converter.convert()
    (count,) = kernel_nonzeros(data)
    assert count.weights == 64 * 64 and 0.95 * 64 * 64 < count.nonzero < 64 * 64
    file = read_model(data)
    kernel = read_kernel(file, weight_tensors(file)[0].index)
    np.testing.assert_allclose(kernel, model.layers[0].kernel.numpy().T, atol=0.01)


def test_weights_of_another_type_are_refused(small):
    file = read_model(small.dense)
    file.subgraphs[0].tensors[weight_tensors(file)[0].index].type = schema.TensorType.INT4
    with pytest.raises(HarpError, match="Expected float32, float16 or int8 weights in .*, received TFLite type"):
        kernel_nonzeros(write_model(file))


def test_file_sizes(small, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(small.sparse)
    file_bytes, gzip_bytes = file_sizes(path)
    assert file_bytes == path.stat().st_size
    assert gzip_bytes < file_bytes
    assert gzip_bytes == len(gzip.compress(small.sparse, 6, mtime=0))


@pytest.mark.parametrize("content", [b"", b"hello world", b"\0\0\0\0TFL3", b"\x20\0\0\0TFL3" + b"\xff" * 100])
def test_what_is_no_tflite_file_is_an_error(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(HarpError, match="TFLite file"):
        kernel_nonzeros(path)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(HarpError, match="No such file"):
        file_sizes(tmp_path / "missing.tflite")


def test_damaged_files_never_raise_anything_else(small):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        data = np.frombuffer(small.sparse, np.uint8).copy()
        data[rng.integers(8, 4000, 30)] = rng.integers(0, 256, 30)
        try:
            kernel_nonzeros(data.tobytes())
        except HarpError:
            refused += 1
    assert refused > 0
