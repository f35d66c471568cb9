"""Batch normalisation, folded and kept, and PReLU."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compaction import compact


def randomise(norm, seed=0):
    rng = np.random.default_rng(seed)
    size = norm.moving_mean.shape[0]
    norm.set_weights(
        [rng.uniform(0.5, 2, size), rng.normal(0, 1, size), rng.normal(0, 1, size), rng.uniform(0.5, 2, size)]
    )


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(6, 3, use_bias=False),
        layers.Conv2D(6, 3, padding="same"),
        layers.Conv2DTranspose(6, 3, strides=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        layers.SeparableConv2D(6, 3),
        layers.Dense(6),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_folding_into_every_layer_with_a_kernel(layer, checked):
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, layers.BatchNormalization(), layers.BatchNormalization()])
    for norm in model.layers[1:]:
        randomise(norm)
    small, _ = checked(model)
    assert "BatchNormalization" not in kinds(small)


def test_it_stays_where_it_cannot_be_folded(checked):
    """Behind an activation, behind a layer that others read or that is an output, and behind an addition."""
    image = keras.Input((8, 8, 3))
    activated = layers.BatchNormalization()(layers.Conv2D(3, 3, padding="same", activation="relu")(image))
    conv = layers.Conv2D(3, 3, padding="same")(activated)
    added = layers.BatchNormalization()(layers.Add()([conv, layers.BatchNormalization()(conv)]))
    small, _ = checked(keras.Model(image, added))
    assert kinds(small).count("BatchNormalization") == 3
    head = layers.Conv2D(3, 3, name="head")(image)
    model = keras.Model(image, [head, layers.BatchNormalization()(head)])
    assert "BatchNormalization" in kinds(compact(model, verbose=False))


@pytest.mark.parametrize("fold", [True, False])
def test_constants_pass_through_it(fold, checked):
    conv, norm = layers.Conv2D(8, 3, use_bias=False, name="a"), layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((8, 8, 3)), conv, norm, layers.ReLU(), layers.Conv2D(4, 3, name="b")])
    conv.kernel.assign(conv.kernel.numpy() * (np.arange(8) < 5))
    randomise(norm)
    small, counts = checked(model, fold_batch_norm=fold)
    assert counts == {"a": 5, "b": 4}
    assert ("BatchNormalization" in kinds(small)) != fold


@pytest.mark.parametrize("fold", [True, False])
def test_a_channel_with_gamma_0_is_constant(fold, checked):
    conv, norm = layers.Conv2D(8, 3, name="a"), layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((8, 8, 3)), conv, norm, layers.Conv2D(4, 3, name="b")])
    randomise(norm)
    norm.gamma.assign(norm.gamma.numpy() * (np.arange(8) != 2))
    _, counts = checked(model, fold_batch_norm=fold)
    assert counts == {"a": 7, "b": 4}


def test_without_scale_and_centre_and_over_another_axis(checked):
    image = keras.Input((8, 8, 3))
    plain = layers.BatchNormalization(scale=False, center=False)
    x = plain(layers.Conv2D(6, 3, use_bias=False)(image))
    y = layers.BatchNormalization(axis=1, name="rows")(layers.Conv2D(6, 1)(x))
    plain.moving_mean.assign(np.arange(6.0))
    small, _ = checked(keras.Model(image, y))
    assert kinds(small).count("BatchNormalization") == 1


@pytest.mark.parametrize("shared, left", [([1, 2], 6), (None, 8)])
def test_prelu(shared, left, checked):
    conv, prelu = layers.Conv2D(8, 3, name="a"), layers.PReLU(shared_axes=shared)
    model = keras.Sequential([keras.Input((8, 8, 3)), conv, prelu, layers.Conv2D(4, 3, name="b")])
    conv.kernel.assign(conv.kernel.numpy() * (np.arange(8) < 6))
    conv.bias.assign(np.linspace(1, -1, 8))
    prelu.alpha.assign(np.random.default_rng(0).normal(0, 1, prelu.alpha.shape))
    _, counts = checked(model)
    assert counts == {"a": left, "b": 4}
