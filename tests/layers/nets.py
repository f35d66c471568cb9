"""Small networks, and scores and rates as a training might leave them, for tests of whole models."""

import keras
import numpy as np
from keras import layers

from harp_tf.compression import logit_bounds
from harp_tf.layers import pruned_kernels, pruning_spec


def small_net(**dense):
    """50,314 prunable weights in kernels of very different sizes."""
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(16, 3, name="conv1", use_bias=False),
            layers.BatchNormalization(name="norm1"),
            layers.ReLU(name="relu1"),
            layers.Conv2D(10, 3, strides=2, name="conv2"),
            layers.Flatten(name="flatten"),
            layers.Dense(300, name="dense1", activation="relu"),
            layers.Dense(7, name="dense2", **dense),
        ]
    )


SIZES = [144, 1440, 48_000, 2100]


def trained(model, seed=0):
    """Sets rate logits and scores as a training might leave them."""
    draws = np.random.default_rng(seed)
    for kernel in pruned_kernels(model):
        kernel.scores.scores.assign(draws.normal(size=kernel.scores.shape))
        low, high = logit_bounds(pruning_spec(model).minimum_rate)
        kernel.scores.logit.assign(draws.uniform(low, high))
    kernel = max(pruned_kernels(model), key=lambda k: k.scores.size)
    kernel.scores.logit.assign(draws.uniform(0, high))  # over the budget, whatever the others draw
    return model


def randomise_scores(model, low=0.3, high=0.8, seed=0):
    """Draws scores, and rates between `low` and `high`."""
    draws = np.random.default_rng(seed)
    for kernel in pruned_kernels(model):
        kernel.scores.scores.assign(draws.normal(size=kernel.scores.shape))
        kernel.scores.set_rate(draws.uniform(low, high))
        kernel.follow()
    return model


def sequential():
    return keras.Sequential(
        [
            keras.Input((10, 10, 2), name="images"),
            layers.Rescaling(2.0, name="rescale"),
            layers.Conv2D(6, 3, name="conv", activation="relu"),
            layers.BatchNormalization(name="norm"),
            layers.DepthwiseConv2D(3, name="depthwise", use_bias=False),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.2, seed=1, name="dropout"),
            layers.Dense(5, name="dense"),
        ],
        name="sequential_net",
    )


def functional():
    inputs = keras.Input((10, 10, 2), name="images")
    x = layers.Conv2D(6, 3, padding="same", name="conv1")(inputs / 0.5)
    shortcut = layers.Conv2D(6, 1, name="shortcut")(inputs)
    x = layers.Add(name="add")([layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x)), shortcut])
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    x = layers.Concatenate(name="join")([shared(x), shared(shared(x))])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, [layers.Dense(5, name="head")(x), layers.Dense(2, name="side")(x)], name="residual")


def nested():
    trunk = sequential()
    inputs = keras.Input((10, 10, 2), name="outer_images")
    body = keras.Model(inputs, layers.Dense(8, name="project")(trunk(inputs)), name="body")
    outputs = layers.Dense(3, name="head")(layers.Add(name="add")([body(inputs), body(1.0 - inputs)]))
    return keras.Model(inputs, outputs, name="nested")


MODELS = {"sequential": sequential, "functional": functional, "nested": nested}
IMAGES = np.random.default_rng(0).uniform(size=(4, 10, 10, 2)).astype(np.float32)


def outputs_of(model):
    return [np.asarray(x) for x in keras.tree.flatten(model(IMAGES))]
