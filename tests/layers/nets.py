"""A small network and rates as a training might leave them, for tests of whole models."""

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
