"""Flattening, reshaping and concatenation."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compaction import compact_with_report
from tests.compaction.conftest import kill


@pytest.mark.parametrize("flatten", [layers.Flatten(), layers.Reshape((-1,)), layers.Reshape((128,))])
def test_a_channel_is_a_row_of_every_position(flatten, checked):
    conv, dense = layers.Conv2D(8, 1, name="a"), layers.Dense(5, name="b")
    model = keras.Sequential([keras.Input((4, 4, 3)), conv, flatten, dense])
    kill(conv, [1, 4], 0.7)
    reads = np.ones((16, 8), bool)
    reads[:, 6] = False  # channel 6 is read nowhere, channel 7 at one position
    reads[1:, 7] = False
    dense.kernel.assign(dense.kernel.numpy() * reads.reshape(-1, 1))
    small, counts = checked(model)
    assert counts == {"a": 5, "b": 5}
    assert small.get_layer("b").kernel.shape == (16 * 5, 5)


def test_reshape_that_leaves_the_channels_last(checked):
    conv, dense = layers.Conv2D(8, 1, name="a"), layers.Dense(5, name="b")
    model = keras.Sequential([keras.Input((4, 4, 3)), conv, layers.Reshape((16, 8)), dense])
    kill(conv, [1, 4], 0.7)
    _, counts = checked(model)
    assert counts == {"a": 6, "b": 5}


def test_reshape_that_mixes_channels_is_left_alone(checked):
    conv = layers.Conv2D(8, 1, name="a")
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), conv, layers.Reshape((8, 16), name="mix"), layers.Dense(5, name="b")]
    )
    kill(conv, [1, 4])
    _, counts = checked(model)
    assert counts == {"a": 8, "b": 5}
    _, report = compact_with_report(model)
    assert set(report.left_alone) == {"mix"}


@pytest.mark.parametrize("join", [layers.Concatenate(), lambda parts: keras.ops.concatenate(parts, axis=-1)])
def test_concatenated_channels_are_dropped_one_by_one(join, checked):
    image = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(6, 1, name="a"), layers.Conv2D(4, 1, name="b")
    x = join([a(image), b(image), image])
    model = keras.Model(image, layers.Conv2D(5, 3, name="c")(x))
    kill(a, [0, 5], 0.4)
    kill(b, range(4), -0.4)
    small, counts = checked(model)
    assert counts == {"a": 4, "b": 0, "c": 5}
    assert small.get_layer("c").kernel.shape[-2] == 7


def test_a_single_living_part_needs_no_concatenation(checked):
    image = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(6, 1, name="a"), layers.Conv2D(4, 1, name="b")
    model = keras.Model(image, layers.Conv2D(5, 3, name="c")(layers.Concatenate()([a(image), b(image)])))
    kill(b, range(4))
    small, counts = checked(model)
    assert counts == {"a": 6, "b": 0, "c": 5}
    assert [type(layer).__name__ for layer in small.layers] == ["InputLayer", "Conv2D", "Conv2D"]


def test_concatenation_of_positions_is_left_alone(checked):
    image = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 1, name="a")
    model = keras.Model(image, layers.Dense(5, name="b")(layers.Concatenate(axis=1)([a(image), a(image)])))
    kill(a, [0, 1])
    _, counts = checked(model)
    assert counts == {"a": 6, "b": 5}
