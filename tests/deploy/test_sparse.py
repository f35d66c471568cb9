import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from harp_tf.deploy import TFLiteClassifier, kernel_nonzeros, sparsify, to_tflite
from harp_tf.deploy.flatbuffer import operator_name, read_model, weight_tensors, write_model
from harp_tf.types import HarpError


@pytest.fixture(scope="module")
def mixed():
    """One kernel each: nothing pruned, a single weight left, nothing left, too small to gain."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="full"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="single"),
            layers.Conv2D(16, 3, padding="same", bias_initializer="ones", name="empty"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, name="tiny"),
        ]
    )
    kernel = np.zeros((3, 3, 16, 16), np.float32)
    model.get_layer("empty").kernel.assign(kernel)
    kernel[2, 1, 3, 4] = -1.5
    model.get_layer("single").kernel.assign(kernel)
    tiny = np.zeros((16, 5), np.float32)
    tiny[4, 2] = 1
    model.get_layer("tiny").kernel.assign(tiny)
    return model, to_tflite(model)


def test_only_what_shrinks_is_sparse(mixed):
    _, dense = mixed
    kernels = {kernel.layer: kernel for kernel in kernel_nonzeros(sparsify(dense))}
    assert {name: kernel.sparse for name, kernel in kernels.items()} == {
        "full": False,
        "single": True,
        "empty": True,
        "tiny": False,
    }
    assert [kernel.nonzero for kernel in kernels.values()] == [576, 1, 0, 1]


@pytest.mark.parametrize("xnnpack", [True, False])
def test_extreme_kernels_give_the_same_logits(mixed, xnnpack):
    model, dense = mixed
    images = np.random.default_rng(0).random((3, 8, 8, 4), np.float32)
    logits = TFLiteClassifier(sparsify(dense), xnnpack=xnnpack).logits(images)
    np.testing.assert_allclose(logits, model(images, training=False), rtol=0, atol=1e-5)


def test_file_without_zeros_is_returned_unchanged():
    model = keras.Sequential([keras.Input((40,)), layers.Dense(40)])
    dense = to_tflite(model)
    assert sparsify(dense) == dense


def test_sparsifying_twice_changes_nothing(small):
    assert sparsify(small.sparse) == small.sparse


def test_path_and_bytes_give_the_same(small, tmp_path):
    path = tmp_path / "dense.tflite"
    path.write_bytes(small.dense)
    assert sparsify(path) == small.sparse


def test_dense_weights_are_gone_from_the_file(small):
    buffers = [buffer.data.size for buffer in read_model(small.sparse).buffers if buffer.data is not None]
    largest = max(kernel.nonzero for kernel in kernel_nonzeros(small.dense))
    assert max(buffers) == 4 * largest


def test_shared_kernel_is_unpacked_once():
    image = keras.Input((8, 8, 16))
    shared = layers.Conv2D(16, 3, padding="same", name="shared")
    logits = layers.GlobalAveragePooling2D()(shared(layers.ReLU()(shared(image))))
    model = keras.Model(image, logits)
    kernel = np.zeros((3, 3, 16, 16), np.float32)
    kernel[::2, ::2, ::4, ::4] = 1
    shared.kernel.assign(kernel)
    sparse = sparsify(to_tflite(model))
    file = read_model(sparse)
    assert [operator_name(file, o) for o in file.subgraphs[0].operators].count("DENSIFY") == 1
    images = np.random.default_rng(0).random((2, 8, 8, 16), np.float32)
    difference = TFLiteClassifier(sparse).logits(images) - model(images, training=False)
    assert np.max(np.abs(difference)) < 1e-4


def test_global_pooling_that_keeps_dimensions_is_rewritten(case):
    # XNNPACK on ARM fails to set up a sparse file with a MEAN that keeps its dimensions.
    def means(file):
        return [o.builtinOptions.keepDims for o in file.subgraphs[0].operators if operator_name(file, o) == "MEAN"]

    made = case("separable", 0.9)
    assert means(read_model(made.dense)) == [True]
    assert means(read_model(made.sparse)) == [False]


def test_a_mean_over_channels_stays_as_it_is():
    # The sizes of an open image are written as 1 in the file.
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(32, 3, name="conv"),
            layers.LayerNormalization(),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Flatten(),
        ]
    )
    kernel = np.zeros((3, 3, 3, 32), np.float32)
    kernel[1, 1, :, ::3] = 1
    model.get_layer("conv").kernel.assign(kernel)
    images = np.random.default_rng(0).random((2, 9, 7, 3), np.float32)
    sparse = sparsify(to_tflite(model))
    assert [found.sparse for found in kernel_nonzeros(sparse)] == [True]
    np.testing.assert_allclose(TFLiteClassifier(sparse).logits(images), model(images, training=False), atol=1e-4)


def test_kernel_that_somebody_else_reads_stays_dense(small):
    file = read_model(small.dense)
    index = weight_tensors(file)[1].index
    file.subgraphs[0].outputs = np.append(file.subgraphs[0].outputs, np.int32(index))
    kernels = kernel_nonzeros(sparsify(write_model(file)))
    assert [kernel.sparse for kernel in kernels[:3]] == [True, False, True]


def test_tensor_data_is_aligned_as_the_schema_demands(small):
    start = np.frombuffer(small.sparse, np.uint8).ctypes.data
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(small.sparse))
    offsets = [b.data.ctypes.data - start for b in model.buffers if b.data is not None and b.data.size]
    assert len(offsets) > 10
    assert all(offset % 16 == 0 for offset in offsets)


def test_damaged_file_is_an_error(small):
    with pytest.raises(HarpError, match="damaged"):
        sparsify(small.dense[:200])
