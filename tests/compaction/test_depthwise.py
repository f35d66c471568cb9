"""Depthwise and separable convolutions."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compaction import compact_with_report
from tests.compaction.conftest import kill


@pytest.mark.parametrize(
    "padding, bias, left",
    [("same", 0.0, 6), ("same", 1.0, 8), ("valid", 1.0, 6)],
    ids=["zero", "border", "no border"],
)
def test_a_constant_channel_stays_constant_where_no_border_shows(padding, bias, left, checked):
    a = layers.Conv2D(8, 1, name="a")
    between = layers.DepthwiseConv2D(3, padding=padding, depth_multiplier=2, name="between")
    b = layers.Conv2D(5, 1, name="b")
    model = keras.Sequential([keras.Input((8, 8, 3)), a, between, b, layers.GlobalAveragePooling2D()])
    kill(a, [2, 5], bias)
    between.bias.assign(np.linspace(-1, 1, 16))
    _, counts = checked(model)
    assert counts == {"a": left, "between": 2 * left, "b": 5}


def test_a_filter_of_zeros_makes_its_bias(checked):
    a, between = layers.Conv2D(8, 1, name="a"), layers.DepthwiseConv2D(3, padding="same", name="between")
    model = keras.Sequential([keras.Input((8, 8, 3)), a, between, layers.ReLU(), layers.Conv2D(5, 3, name="b")])
    between.kernel.assign(between.kernel.numpy() * (np.arange(8) < 5)[:, None])
    between.bias.assign(np.linspace(-1, 1, 8))
    _, counts = checked(model)
    assert counts == {"a": 5, "between": 5, "b": 5}


def test_a_channel_is_kept_if_one_of_its_outputs_is_read(checked):
    between, b = layers.DepthwiseConv2D(3, depth_multiplier=2, name="between"), layers.Conv2D(5, 1, name="b")
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(8, 1, name="a"), between, b])
    b.kernel.assign(b.kernel.numpy() * np.isin(np.arange(16), [0, 1, 4, 15])[:, None])
    _, counts = checked(model)
    assert counts == {"a": 3, "between": 6, "b": 5}


@pytest.mark.parametrize("rank", [1, 2])
def test_a_separable_convolution_becomes_its_two_parts(rank, checked):
    kind = {1: layers.SeparableConv1D, 2: layers.SeparableConv2D}[rank]
    separable = kind(8, 3, padding="same", strides=2, depth_multiplier=2, activation="relu", name="s")
    first = layers.Dense(6, name="first")
    model = keras.Sequential(
        [keras.Input((8,) * rank + (3,)), first, separable, layers.Flatten(), layers.Dense(4, name="d")]
    )
    kill(first, [0], 0.0)
    kernel = separable.pointwise_kernel
    kernel.assign(kernel.numpy() * (np.arange(8) != 3) * (~np.isin(np.arange(12), [4, 5]))[:, None])
    separable.bias.assign(np.linspace(0.1, 1, 8))
    _, counts = checked(model)
    assert counts == {"first": 4, "s_depthwise": 8, "s_pointwise": 7, "d": 4}


def test_a_separable_convolution_that_mixes_its_channels_is_left_alone(same_outputs):
    mixing = layers.SeparableConv2D(4, 3, activation="softmax", name="mixing")
    model = keras.Sequential([keras.Input((6, 6, 2)), mixing, layers.Flatten(), layers.Dense(3)])
    small, report = compact_with_report(model)
    assert "mixing" in report.left_alone
    same_outputs(model, small)
