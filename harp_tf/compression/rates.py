"""Rates, their logits and the only rounding rule from a rate to a number of kept weights.

A *rate* is the fraction of weights that is kept, a *sparsity* the fraction that is removed. Users speak of
sparsity, the mathematics of rates; `harp_tf.types.PruningSpec` is the only place where one becomes the other.
"""

import math

import numpy as np
import tensorflow as tf

MAX_LOGIT = 5.0
"""Upper bound of a trained rate logit: a rate of 0.9933, where the sigmoid still has slope enough to return.

Without a bound a logit that jumps to, say, 38 stays there for good, since the sigmoid's slope is 0."""


def rate_from_logit(logit: tf.Tensor, minimum: float) -> tf.Tensor:
    """a = a_min + (1 - a_min) * sigmoid(r).

    Args:
        logit: float32 tensor r.
        minimum: a_min, the smallest rate.

    Returns:
        float32 tensor of rates in [a_min, 1].
    """
    return minimum + (1.0 - minimum) * tf.sigmoid(logit)


def logit_from_rate(rate: float, minimum: float) -> float:
    """Inverse of `rate_from_logit`, for initialisation.

    The sigmoid's value is clipped away from 0 and 1, so that a rate at the floor or of 1 has a finite logit.

    Args:
        rate: a, the rate wanted, in [0, 1].
        minimum: a_min, the smallest rate.

    Returns:
        The logit r as a Python float.
    """
    slack = 0.1 * minimum if minimum > 0 else 1e-6
    value = min(max((rate - minimum) / (1.0 - minimum), slack), 1.0 - 1e-6)
    return math.log(value) - math.log1p(-value)


def logit_bounds(minimum: float) -> tuple[float, float]:
    """The range in which a trained logit stays, so that a rate can return from either end.

    Args:
        minimum: a_min, the smallest rate.

    Returns:
        (lowest, highest) logit. At the lowest the rate is 1.1 * a_min, at the highest 0.9933.
    """
    return logit_from_rate(minimum, minimum), MAX_LOGIT


def keep_count(rate: tf.Tensor, size: int) -> tf.Tensor:
    """k = n - floor((1 - a) * n), at least 1: how many of `size` weights a rate keeps.

    Computed in float64, with a slack for float64's own rounding only: 0.9 of 10 weights removes one, although
    1 - 0.9 is slightly less than 0.1. A float32 rate is taken at its exact value.

    Args:
        rate: scalar tensor, or Python number, a in [0, 1].
        size: number of weights n, a Python int.

    Returns:
        int32 scalar tensor k with 1 <= k <= size.
    """
    rate = tf.cast(rate, tf.float64) if tf.is_tensor(rate) else tf.constant(rate, tf.float64)
    slack = 1e-12 * (size + 1)
    removed = tf.floor((1.0 - rate) * size + slack)
    return tf.clip_by_value(size - tf.cast(removed, tf.int32), 1, size)


def logit_for_count(count: int, size: int, minimum: float) -> float:
    """A logit at which a layer keeps exactly `count` weights, or the most below it that float32 can express.

    Args:
        count: number of weights to keep, 1 <= count <= size.
        size: number of weights of the layer.
        minimum: a_min, the smallest rate.

    Returns:
        The logit as a Python float, exactly representable in float32.
    """

    def count_at(logit: np.float32) -> int:
        return int(keep_count(rate_from_logit(tf.constant(logit), minimum), size))

    # The middle of the interval of rates that give this count is the farthest from both rounding edges.
    low, high = max((count - 1) / size, minimum), count / size
    logit = np.float32(logit_from_rate((low + high) / 2, minimum))
    step = np.float32(1e-6)
    while count_at(logit) > count and logit > -100:
        logit = np.float32(logit - step)
        step = np.float32(step * 2)
    return float(logit)
