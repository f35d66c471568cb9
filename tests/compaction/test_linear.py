"""Dense layers and convolutions: dropping, folding, merging."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compaction import compact_with_report


def net(first, second, shape=(8, 8, 3), between=()):
    """Two layers, of the first of which three filters of eight are zero, with biases 1, -1 and 0.5."""
    model = keras.Sequential([keras.Input(shape), first, *between, second, layers.GlobalAveragePooling2D()])
    rng = np.random.default_rng(0)
    for layer in (first, second):
        layer.bias.assign(rng.normal(0, 1, layer.bias.shape))
        layer.kernel.assign(rng.normal(0, 0.5, layer.kernel.shape))
    first.kernel.assign(first.kernel * ~np.isin(np.arange(8), [1, 4, 6]))
    bias = first.bias.numpy()
    bias[[1, 4, 6]] = 1.0, -1.0, 0.5
    first.bias.assign(bias)
    return model


def test_a_negative_constant_becomes_zero_in_a_relu_and_is_dropped(checked):
    model = net(layers.Conv2D(8, 3, padding="same", name="a", activation="relu"), layers.Conv2D(4, 3, name="b"))
    model.layers[0].bias.assign(-np.abs(model.layers[0].bias))
    small, counts = checked(model)
    assert counts == {"a": 5, "b": 4}
    # Nothing was folded or merged.
    np.testing.assert_array_equal(small.get_layer("b").bias, model.get_layer("b").bias)


@pytest.mark.parametrize(
    "second",
    [
        layers.Conv2D(4, 3, name="b"),
        layers.Conv2D(4, 1, padding="same", strides=2, name="b"),
        layers.Dense(4, name="b"),
    ],
    ids=["valid", "1x1", "dense"],
)
def test_constants_become_part_of_the_next_bias(second, checked):
    model = net(layers.Conv2D(8, 3, padding="same", name="a"), second)
    small, counts = checked(model)
    assert counts == {"a": 5, "b": 4}
    assert np.all(small.get_layer("b").bias.numpy() != model.get_layer("b").bias.numpy())


@pytest.mark.parametrize(
    "second",
    [
        layers.Conv2D(4, 3, padding="same", name="b"),
        layers.Conv2D(4, 3, padding="same", dilation_rate=2, name="b"),
        layers.Conv2D(4, 3, padding="same", strides=2, name="b"),
        layers.Conv2DTranspose(4, 3, strides=2, name="b"),
    ],
    ids=["same", "dilated", "strided", "transposed"],
)
def test_where_the_border_shows_one_constant_stands_for_all(second, checked):
    model = net(layers.Conv2D(8, 3, padding="same", name="a"), second)
    _, counts = checked(model)
    assert counts == {"a": 6, "b": 4}


def test_merging_is_exact():
    model = net(layers.Conv2D(8, 3, padding="same", name="a"), layers.Conv2D(4, 3, padding="same", name="b"))
    small, report = compact_with_report(model)
    kernel, bias = model.get_layer("b").kernel.numpy(), model.get_layer("b").bias.numpy()
    merged = kernel[:, :, 1] - kernel[:, :, 4] + 0.5 * kernel[:, :, 6]
    np.testing.assert_allclose(small.get_layer("b").kernel[:, :, 1], merged, atol=1e-6)
    np.testing.assert_array_equal(small.get_layer("b").bias, bias)
    assert report.difference < 1e-6
    # Another value at the border proves that folding into the bias would not have been exact.
    image = np.zeros((1, 8, 8, 3), np.float32)
    model = keras.Model(model.inputs, model.get_layer("b").output)
    full = model(image)[0].numpy()
    assert np.abs(full[0, 0] - full[4, 4]).max() > 0.1


def test_padding_by_a_layer_of_its_own_is_merged_too(checked):
    model = net(
        layers.Conv2D(8, 3, padding="same", activation="relu", name="a"),
        layers.Conv2D(4, 3, strides=2, name="b"),
        between=[layers.ZeroPadding2D(1), layers.MaxPooling2D(2, 1)],
    )
    _, counts = checked(model)
    assert counts == {"a": 6, "b": 4}


def test_a_filter_that_nothing_reads_is_dropped_with_what_only_it_read(checked):
    a, b, c = (layers.Dense(8, name=name) for name in "abc")
    model = keras.Sequential([keras.Input((6,)), a, b, c])
    c.kernel.assign(c.kernel.numpy() * (np.arange(8) != 3)[:, None])
    reads = np.ones((8, 8))
    reads[5] = np.arange(8) == 3  # unit 5 of a feeds unit 3 of b only
    b.kernel.assign(b.kernel.numpy() * reads)
    _, counts = checked(model)
    assert counts == {"a": 7, "b": 7, "c": 8}


def test_a_layer_with_constants_only_keeps_one_input(checked):
    a, b = layers.Dense(8, name="a"), layers.Dense(4, name="b")
    model = keras.Sequential([keras.Input((6,)), a, b])
    a.kernel.assign(np.zeros((6, 8)))
    a.bias.assign(np.arange(8.0))
    _, counts = checked(model)
    assert counts == {"a": 1, "b": 4}


def test_a_tiny_constant_does_not_stand_for_a_large_one(checked):
    """Unit 1 is kept anyway, for the addition, but multiplying its rounding by 1e7 would spoil the result."""
    image = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(8, 3, padding="same", name="a"), layers.Conv2D(8, 3, padding="same", name="b")
    x = a(image)
    other = layers.Conv2D(8, 1, name="other")(image)
    added = layers.Add()([x, other])
    model = keras.Model(image, layers.Concatenate()([b(x), layers.Conv2D(3, 1, name="reader")(added)]))
    dead = np.isin(np.arange(8), [1, 4])
    a.kernel.assign(a.kernel.numpy() * ~dead)
    a.bias.assign(np.where(np.arange(8) == 1, 1e-7, np.where(np.arange(8) == 4, 3.0, 0.0)))
    reader = model.get_layer("reader").kernel
    reader.assign(reader.numpy() * (np.arange(8) != 4)[:, None])
    other = model.get_layer("other").kernel
    other.assign(other.numpy() * (np.arange(8) != 4))
    _, counts = checked(model)
    assert counts["a"] == 8


@pytest.mark.parametrize("rank", [1, 3])
def test_other_numbers_of_dimensions(rank, checked):
    conv = {1: layers.Conv1D, 3: layers.Conv3D}[rank]
    a = conv(8, 3, padding="causal" if rank == 1 else "same", name="a", activation="relu")
    b = conv(4, 3, padding="valid", name="b")
    model = keras.Sequential([keras.Input((6,) * rank + (2,)), a, b, layers.Flatten(), layers.Dense(3)])
    a.kernel.assign(a.kernel.numpy() * (np.arange(8) < 5))
    a.bias.assign(np.linspace(-1, 1, 8))
    _, counts = checked(model)
    assert counts["a"] == 5


def test_grouped_and_shared_layers_and_subclasses_are_left_alone(checked):
    class Doubled(layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    image = keras.Input((6, 6, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = layers.Conv2D(8, 1, groups=2, name="grouped")(shared(shared(image)))
    model = keras.Model(image, Doubled(4, name="doubled")(layers.GlobalAveragePooling2D()(x)))
    shared.kernel.assign(shared.kernel.numpy() * (np.arange(4) < 2))
    small, _ = checked(model)
    assert small.count_params() == model.count_params()
    _, report = compact_with_report(model)
    assert report.left_alone["grouped"] == "Conv2D: a grouped convolution"
    assert "more than once" in report.left_alone["shared"] and "no rule" in report.left_alone["doubled"]
