"""Activations, additions and products."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compaction import compact_with_report
from harp_tf.compaction.elementwise import activate, is_elementwise


def dead_conv(dead, bias=0.0, filters=8, name="a", **options):
    """A 1x1 convolution on three channels, some of whose filters are zero."""
    layer = layers.Conv2D(filters, 1, name=name, **options)
    layer.build((None, 8, 8, 3))
    gone = np.isin(np.arange(filters), dead)
    layer.kernel.assign(layer.kernel.numpy() * ~gone)
    layer.bias.assign(np.where(gone, bias, np.linspace(-0.5, 0.5, filters)))
    return layer


@pytest.mark.parametrize(
    "activation",
    [
        layers.ReLU(),
        layers.ReLU(max_value=6, threshold=0.3, negative_slope=0.1),
        layers.LeakyReLU(),
        layers.ELU(),
        layers.Activation("sigmoid"),
        layers.Activation("gelu"),
        layers.Rescaling(2.0, offset=0.5),
        layers.Rescaling([*range(1, 9)], offset=list(range(8))),
        layers.Dropout(0.5),
        layers.SpatialDropout2D(0.5),
        layers.GaussianNoise(0.5),
        keras.ops.silu,
        lambda x: keras.ops.tanh(2.0 * x - 1),
    ],
    ids=lambda a: getattr(a, "name", "function"),
)
def test_constants_pass_through_functions_of_single_elements(activation, checked):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="b")(activation(dead_conv([2, 5, 7], 0.7)(image)))
    _, counts = checked(keras.Model(image, x))
    assert counts == {"a": 5, "b": 4}


def test_an_activation_across_channels_needs_all_of_them(checked):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="b")(layers.Activation("softmax")(dead_conv([2, 5])(image)))
    y = layers.Conv2D(4, 3, name="d")(dead_conv([2, 5], name="c", activation="softmax")(image))
    _, counts = checked(keras.Model(image, layers.Add()([x, y])))
    assert counts == {"a": 8, "b": 4, "c": 8, "d": 4}


@pytest.mark.parametrize("join", [layers.Add(), layers.Average(), layers.Maximum(), layers.Subtract(), keras.ops.add])
def test_a_channel_of_an_addition_is_dropped_if_all_branches_agree(join, checked):
    image = keras.Input((8, 8, 3))
    branches = [dead_conv([1, 2, 5], 0.3, name="a")(image), dead_conv([2, 5, 7], -0.2, name="b")(image)]
    joined = join(branches) if isinstance(join, layers.Layer) else join(*branches)
    _, counts = checked(keras.Model(image, layers.Conv2D(4, 3, name="c")(joined)))
    assert counts == {"a": 6, "b": 6, "c": 4}


def test_all_branches_of_a_chain_of_additions_keep_the_same_channels(checked):
    image = keras.Input((8, 8, 3))
    x = dead_conv([1, 2, 3], name="a")(image)
    y = layers.Add()([x, layers.Conv2D(8, 3, padding="same", name="b")(x)])
    z = layers.Add()([y, dead_conv([2], name="c")(image)])
    model = keras.Model(image, layers.Conv2D(4, 3, name="d")(z))
    kernel, reads = model.get_layer("b").kernel, model.get_layer("d").kernel
    kernel.assign(kernel.numpy() * ~np.isin(np.arange(8), [1, 2]))
    reads.assign(reads.numpy() * (np.arange(8) != 4)[:, None])
    _, counts = checked(model)
    # Channel 2 is dead in a, b and c; channel 4 is read by b.
    assert counts == {"a": 7, "b": 7, "c": 7, "d": 4}


def test_a_branch_of_zeros_is_left_out(checked):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(image)
    y = layers.ReLU()(dead_conv(range(8), -1.0, name="b")(image))
    small, counts = checked(keras.Model(image, layers.Conv2D(4, 3, name="c")(layers.Add()([x, y]))))
    assert counts == {"a": 8, "b": 0, "c": 4}
    assert not any(isinstance(layer, layers.Add) for layer in small.layers)


def test_0_times_anything_is_0(checked):
    """A gate of one value per channel: closed for good in channel 3."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="a")(image)
    gate = layers.Dense(8, activation="relu", name="gate")
    y = gate(layers.GlobalAveragePooling2D(keepdims=True)(x))
    gate.bias.assign(np.where(np.arange(8) == 3, -1.0, 1.0))
    gate.kernel.assign(gate.kernel.numpy() * (np.arange(8) != 3) * (np.arange(8) != 3)[:, None])
    _, counts = checked(keras.Model(image, layers.Conv2D(4, 3, padding="same", name="b")(layers.Multiply()([x, y]))))
    assert counts == {"a": 7, "gate": 7, "b": 4}


def test_one_channel_may_meet_many(checked):
    image = keras.Input((8, 8, 3))
    mask = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="mask")(image)
    x = layers.Multiply()([dead_conv([0, 4])(image), mask])
    _, counts = checked(keras.Model(image, layers.Conv2D(4, 3, padding="same", name="b")(x)))
    assert counts == {"a": 6, "mask": 1, "b": 4}


def test_dropout_in_training_mode_is_left_alone():
    x = keras.Input((8,))
    y = layers.Dropout(1e-9, name="drop")(layers.Dense(8, name="a")(x), training=True)
    _, report = compact_with_report(keras.Model(x, layers.Dense(3)(y)))
    assert report.left_alone == {"drop": "Dropout: called with further arguments"}


def test_unknown_stays_unknown():
    values = activate(keras.activations.relu, np.array([np.nan, -1.0, 2.0]))
    np.testing.assert_array_equal(values, [np.nan, 0.0, 2.0])
    assert is_elementwise(keras.activations.relu) and not is_elementwise(keras.activations.softmax)
    assert not is_elementwise(layers.ReLU())
