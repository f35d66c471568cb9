"""Fully-connected layers that are computed from their non-zeros."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import (
    TFLiteClassifier,
    kernel_nonzeros,
    memory_bytes,
    quantize_weights,
    sparsify,
    to_tflite,
    verify,
)
from harp_tf.deploy.flatbuffer import operator_name, read_model

IMAGES = np.random.default_rng(0).random((5, 8, 8, 8), np.float32)


def network(zeros: float, block: int = 1, units: int = 48, **options) -> keras.Model:
    """Flatten and two fully-connected layers, the first one with blocks of zeros along the input."""
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 8)), layers.Flatten(), layers.Dense(units, name="wide", **options), layers.Dense(10)]
    )
    mask = np.zeros(512 * units // block, bool)
    mask[: round((1 - zeros) * mask.size)] = True
    wide = model.get_layer("wide").kernel
    wide.assign(rng.normal(0, 1, wide.shape) * np.repeat(rng.permutation(mask).reshape(-1, units), block, axis=0))
    return model


def forms(data: bytes) -> list[tuple[int, int | None]]:
    """Version and block size of every fully-connected operator."""
    file = read_model(data)
    graph = file.subgraphs[0]
    found: list[tuple[int, int | None]] = []
    for operator in graph.operators:
        if operator_name(file, operator) == "FULLY_CONNECTED":
            sparsity = graph.tensors[int(operator.inputs[1])].sparsity
            block = (
                None if sparsity is None else sparsity.dimMetadata[2].denseSize if sparsity.blockMap is not None else 1
            )
            found.append((file.operatorCodes[operator.opcodeIndex].version, block))
    return found


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"activation": "relu6", "use_bias": False}, {}])
@pytest.mark.parametrize("block", [1, 4])
def test_few_weights_are_computed_as_they_are_stored(block, options):
    model = network(0.98, block, **options)
    dense = to_tflite(model)
    sparse = sparsify(dense)
    assert forms(sparse) == [(8, block), (1, None)]
    assert [(k.layer, k.nonzero, k.sparse) for k in kernel_nonzeros(sparse)] == [
        (k.layer, k.nonzero, k.layer == "wide") for k in kernel_nonzeros(dense)
    ]
    assert memory_bytes(sparse) == len(sparse) < len(dense) / 5  # nothing is unpacked
    assert verify(sparse, model, IMAGES).max_logit_difference < 1e-4
    wanted = model(IMAGES, training=False)
    np.testing.assert_allclose(TFLiteClassifier(sparse, num_threads=2).logits(IMAGES), wanted, rtol=0, atol=1e-4)


def test_more_weights_are_unpacked():
    assert forms(sparsify(to_tflite(network(0.96)))) == [(1, None), (1, None)]
    # As blocks they are fewer entries to go through.
    assert forms(sparsify(to_tflite(network(0.96, 4)))) == [(8, 4), (1, None)]


def test_small_matrices_and_stored_numbers_of_fewer_bits_are_unpacked():
    assert forms(sparsify(to_tflite(network(0.99, units=7)))) == [(1, None), (1, None)]
    for weight_type in ("float16", "int8_weights"):
        data = sparsify(quantize_weights(to_tflite(network(0.99)), weight_type))
        assert forms(data) == [(1, None), (1, None)] and kernel_nonzeros(data)[0].sparse


def test_all_zeros_and_an_odd_number_of_inputs():
    for inputs, kept in ((512, 0), (513, 3)):
        model = keras.Sequential([keras.Input((inputs,)), layers.Dense(48, bias_initializer="ones"), layers.Dense(3)])
        kernel = np.zeros((inputs, 48), np.float32)
        kernel[np.arange(kept), np.arange(kept)] = 1
        model.layers[0].kernel.assign(kernel)
        data = sparsify(to_tflite(model))
        assert forms(data)[0] == (8, 1)
        verify(data, model, np.random.default_rng(0).random((3, inputs), np.float32))


def test_a_layer_that_runs_once_per_pixel_is_unpacked():
    # There the dense kernel multiplies matrices; one that goes through the non-zeros for every pixel is no match.
    image = keras.Input((8, 8, 128))
    x = layers.Dense(64, name="each_pixel")(image)
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    kernel = np.zeros((128, 64), np.float32)
    kernel[3, 4] = 1
    model.get_layer("each_pixel").kernel.assign(kernel)
    data = sparsify(to_tflite(model))
    assert (8, 1) not in forms(data) and kernel_nonzeros(data)[0].sparse
    verify(data, model, np.random.default_rng(0).random((2, 8, 8, 128), np.float32))


def test_it_is_faster():
    model = keras.Sequential([keras.Input((2048,)), layers.Dense(1024), layers.Dense(10)])
    kernel = model.layers[0].kernel
    kernel.assign(kernel * (np.random.default_rng(0).random(kernel.shape) < 0.01))
    dense = to_tflite(model)
    times = {}
    image = np.zeros((1, 2048), np.float32)
    for name, data in {"dense": dense, "sparse": sparsify(dense)}.items():
        times[name] = min(TFLiteClassifier(data).seconds(image, 50))
    assert times["sparse"] < times["dense"] / 3  # measured: 1/10
