"""Pooling, padding, cropping and upsampling."""

import keras
import numpy as np
import pytest
from keras import layers


def net(between, second, bias=1.0):
    first = layers.Conv2D(8, 1, name="a")
    model = keras.Sequential([keras.Input((9, 9, 3)), first, *between, second])
    dead = np.isin(np.arange(8), [2, 5])
    first.kernel.assign(first.kernel.numpy() * ~dead)
    first.bias.assign(np.where(dead, [bias, 2 * bias] * 4, 0.1))
    return model


@pytest.mark.parametrize(
    "between",
    [
        layers.MaxPooling2D(2),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.AveragePooling2D(3, strides=2, padding="same"),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.GlobalMaxPooling2D(keepdims=True),
        layers.UpSampling2D(2),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.Cropping2D(2),
    ],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("bias", [1.0, -1.0])
def test_constants_stay_constants(between, bias, checked):
    _, counts = checked(net([between], layers.Conv2D(4, 1, name="b"), bias))
    assert counts == {"a": 6, "b": 4}


@pytest.mark.parametrize("pool, left", [(layers.GlobalAveragePooling2D(), 6), (layers.GlobalMaxPooling2D(), 6)])
def test_pooling_to_a_vector(pool, left, checked):
    _, counts = checked(net([pool], layers.Dense(4, name="b")))
    assert counts == {"a": left, "b": 4}


@pytest.mark.parametrize(
    "bias, after, left",
    [
        (1.0, [], 7),  # one constant stands for both
        (-1.0, [], 7),
        (0.0, [], 6),
        (1.0, [layers.MaxPooling2D(2)], 7),
        (-1.0, [layers.MaxPooling2D(2)], 8),  # the maximum of negative values and a border of zeros
        (-1.0, [layers.AveragePooling2D(2)], 7),
        (1.0, [layers.Activation("sigmoid")], 8),
        (0.0, [layers.Activation("sigmoid")], 6),
        (1.0, [layers.DepthwiseConv2D(3)], 8),
    ],
)
def test_padding_makes_constants_multiples_of_one_pattern(bias, after, left, checked):
    _, counts = checked(net([layers.ZeroPadding2D(1), *after], layers.Conv2D(4, 3, name="b"), bias))
    assert counts["a"] == left
