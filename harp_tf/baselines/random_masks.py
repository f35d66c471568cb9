"""Random masks: what every method has to beat."""

import keras
import numpy as np

from harp_tf.baselines.base import WEIGHTS_ONLY, Method, keep_largest
from harp_tf.layers import pruned_kernels


def keep_any(network: keras.Model, seed: int) -> None:
    """Lets each mask keep weights that a seed chooses."""
    for index, kernel in enumerate(pruned_kernels(network)):
        drawn = np.random.default_rng([seed, index]).random(kernel.scores.shape, np.float32)
        keep_largest(kernel, drawn)


RANDOM = Method(start=keep_any, only=WEIGHTS_ONLY, trains=None)
"""Weights that were drawn by lot, at the same rate in all layers."""
