import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import export_tflite, to_tflite
from harp_tf.deploy.flatbuffer import read_model
from harp_tf.deploy.kernels import is_scaled_copy, match_kernels, model_kernels


def test_kernels_of_all_kinds_in_the_order_of_the_network():
    image = keras.Input((6, 4))
    x = layers.Conv1D(8, 3, name="conv")(image)
    x = layers.Conv1DTranspose(6, 3, name="transposed")(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv1D(10, 2, name="separable")(x)
    x = layers.EinsumDense("abc,dcb->ad", output_shape=(7,), name="einsum")(x)
    model = keras.Model(image, layers.Dense(2, name="dense")(x))
    assert [(kernel.path, kernel.weights.shape) for kernel in model_kernels(model)] == [
        ("conv/kernel", (8, 3, 4)),
        ("transposed/kernel", (6, 3, 8)),
        ("depthwise/kernel", (3, 12)),
        ("separable/depthwise_kernel", (2, 12)),
        ("separable/pointwise_kernel", (10, 1, 12)),
        ("einsum/kernel", (7, 30)),
        ("dense/kernel", (2, 7)),
    ]


def test_same_shaped_dense_kernels_are_told_apart_by_their_values():
    # No zeros, and batch norms that scale every kernel: only the values up to a scale tell.
    model = keras.Sequential([keras.Input((8, 8, 4))])
    for name in ("c", "a", "b"):
        model.add(layers.Conv2D(4, 3, padding="same", use_bias=False, name=name))
        model.add(layers.BatchNormalization(gamma_initializer=keras.initializers.RandomUniform(0.5, 2, seed=1)))
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    matches = match_kernels(read_model(to_tflite(model)), model)
    assert [match.kernel.path for match in matches] == ["c/kernel", "a/kernel", "b/kernel"]
    assert all(is_scaled_copy(match.weights, match.kernel.weights) for match in matches)


def test_attention_kernels_are_found():
    image = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(image, image)
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    matches = match_kernels(read_model(to_tflite(model)), model)
    assert {match.kernel.path for match in matches} == {kernel.path for kernel in model_kernels(model)}
    assert len(matches) == 5


@pytest.mark.parametrize("quantize", [None, "int8_weights"])
def test_equal_kernels_are_stored_once(quantize, tmp_path):
    def blur(x, number):
        layer = layers.DepthwiseConv2D(3, padding="same", use_bias=False, trainable=False, name=f"blur{number}")
        x = layer(x)
        layer.set_weights([np.repeat(np.outer([1, 2, 1], [1, 2, 1])[..., None, None] / 16, 8, axis=2)])
        return x

    image = keras.Input((8, 8, 3))
    x = blur(layers.ReLU()(layers.Conv2D(8, 3, padding="same", name="conv")(image)), 1)
    x = layers.GlobalAveragePooling2D()(blur(layers.MaxPooling2D()(x), 2))
    report = export_tflite(keras.Model(image, layers.Dense(3)(x)), tmp_path / "m.tflite", quantize=quantize)
    assert report.parameters == 3 * 3 * 3 * 8 + 9 * 8 + 8 * 3  # what the file holds


@pytest.mark.parametrize("factor_shape", [(5, 1, 1), (1, 1, 4), (1, 1, 1)])
def test_scaled_copies(factor_shape):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 3, 4)).astype(np.float32) * (rng.random((5, 3, 4)) < 0.6)
    copy = kernel * rng.uniform(-2, 2, factor_shape).astype(np.float32)
    assert is_scaled_copy(copy, kernel)
    changed = copy.copy()
    changed[np.unravel_index(np.argmax(np.abs(copy)), copy.shape)] *= 1.01
    assert not is_scaled_copy(changed, kernel)


def test_a_kernel_without_any_weight_may_be_gone_from_the_file():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(1, 3, name="dead"), layers.Flatten(), layers.Dense(4, name="logits")]
    )
    model.get_layer("dead").kernel.assign(np.zeros((3, 3, 3, 1), np.float32))
    model.get_layer("dead").bias.assign([0.5])
    file = read_model(to_tflite(model))
    assert "logits/kernel" in {match.kernel.path for match in match_kernels(file, model)}
