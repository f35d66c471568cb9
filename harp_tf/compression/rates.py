"""Rates, their logits and the only rounding rule from a rate to a number of kept weights.

A *rate* is the fraction of weights that is kept, a *sparsity* the fraction that is removed. Users speak of
sparsity, the mathematics of rates; `harp_tf.types.PruningSpec` is the only place where one becomes the other.
"""

import math

import numpy as np
import tensorflow as tf

from harp_tf.types import HarpError

MAX_LOGIT = 5.0
"""Upper bound of a trained rate logit: a rate of 0.9933, where the sigmoid still has slope enough to return.

Without a bound a logit that jumps to, say, 38 stays there for good, since the sigmoid's slope is 0."""

MAX_LOGIT_GRADIENT = 0.1
"""Bound of the gradient of a rate logit in training.

While the masks of a very sparse network still change quickly, single batches send gradients through a rate that are
orders of magnitude too large, and one such step decides over a whole layer. Near the target, gradients stay far below
this bound, so it does not change where rates settle."""


def rate_from_logit(logit: tf.Tensor, minimum: float, maximum: float = 1.0) -> tf.Tensor:
    """a = a_min + (a_max - a_min) * sigmoid(r).

    Computed in float64 and rounded once: float32 sigmoids differ in the last bit between eager mode, XLA and
    devices, which would make the same logit keep another number of weights here and there.

    Args:
        logit: float32 tensor r.
        minimum: a_min, the smallest rate.
        maximum: a_max, the largest rate.

    Returns:
        float32 tensor of rates in [a_min, a_max].
    """
    return tf.cast(minimum + (maximum - minimum) * tf.sigmoid(tf.cast(logit, tf.float64)), tf.float32)


def logit_from_rate(rate: float, minimum: float, maximum: float = 1.0) -> float:
    """Inverse of `rate_from_logit`, for initialisation.

    The logit is finite for every rate: at or below the floor it is the one of 1.1 * a_min (or a_min plus a hundredth
    of the range of rates, if that is less), from which a rate can still be learned, and for a rate of a_max the rate
    that comes back is a_max in float32.

    Args:
        rate: a, the rate wanted; a rate outside of [a_min, a_max] counts as the nearest inside.
        minimum: a_min, the smallest rate, in [0, 1].
        maximum: a_max, the largest rate, in [a_min, 1].

    Returns:
        The logit r as a Python float; 0 where a_min = a_max and no logit changes the rate.
    """
    return _logit(_position(rate, minimum, maximum), lowest=min(0.1 * minimum, 0.01))


def _position(rate: float, minimum: float, maximum: float) -> float:
    """Where a rate lies between a_min, 0, and a_max, 1."""
    return (rate - minimum) / (maximum - minimum) if maximum > minimum else 0.5


def _logit(value: float, lowest: float = 0.0) -> float:
    value = min(max(value, lowest, 1e-12), 1.0 - 1e-9)
    return math.log(value) - math.log1p(-value)


def logit_bounds(minimum: float, maximum: float = 1.0) -> tuple[float, float]:
    """The range in which a trained logit stays, so that a rate can return from either end.

    Args:
        minimum: a_min, the smallest rate.
        maximum: a_max, the largest rate.

    Returns:
        (lowest, highest) logit. At the lowest the rate is 1.1 * a_min, at the highest 0.9933 * a_max or a little more.
    """
    return logit_from_rate(minimum, minimum, maximum), MAX_LOGIT


def float32_at_most(rate: float) -> float:
    """The largest float32 number that does not exceed `rate`, so that no rounding lifts a rate above its ceiling."""
    nearest = np.float32(rate)  # compared as a float: NumPy would round the rate first
    return float(np.nextafter(nearest, np.float32(0)) if float(nearest) > rate else nearest)


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


def logit_for_count(count: int, size: int, minimum: float, maximum: float = 1.0) -> float:
    """A logit at which a layer keeps exactly `count` weights.

    Beyond 8 million weights float32 rates near 1 are coarser than single weights; there the count may fall a few
    weights below the one wanted, never above it.

    Args:
        count: number of weights to keep, 1 <= count <= size, not fewer than a_min keeps nor more than a_max does.
        size: number of weights of the layer.
        minimum: a_min, the smallest rate.
        maximum: a_max, the largest rate, a float32 number.

    Returns:
        The logit as a Python float, exactly representable in float32.

    Raises:
        HarpError: if `count` is out of its range.
    """

    def count_at(logit: np.float32) -> int:
        return int(keep_count(rate_from_logit(tf.constant(logit), minimum, maximum), size))

    least, most = (int(keep_count(tf.constant(bound, tf.float32), size)) for bound in (minimum, maximum))
    if not least <= count <= most:
        raise HarpError(
            f"A layer of {size} weights whose rate is between {minimum:g} and {maximum:g} keeps between {least} and "
            f"{most} of them, {count} were asked for."
        )
    # The middle of the interval of rates that give this count is the farthest from both rounding edges.
    low, high = max((count - 1) / size, minimum), min(count / size, maximum)
    middle = 1.0 if count == size else (low + high) / 2
    logit = np.float32(_logit(_position(middle, minimum, maximum)))
    step = np.float32(1e-6)
    while count_at(logit) > count:
        logit = np.float32(logit - step)
        step = np.float32(step * 2)
    return float(logit)
