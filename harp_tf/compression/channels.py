"""The rounding rule for channels: from a rate to a number of kept channels and back."""

import math

import tensorflow as tf

from harp_tf.compression.rates import logit_from_rate


def keep_channels(rate: tf.Tensor, size: int) -> tf.Tensor:
    """k = round(a * C), at least 1: how many of `size` channels a rate keeps. Halves are rounded up.

    Args:
        rate: scalar tensor, or Python number, a in [0, 1].
        size: number of channels C, a Python int.

    Returns:
        int32 scalar tensor k with 1 <= k <= size.
    """
    rate = tf.cast(rate, tf.float64) if tf.is_tensor(rate) else tf.constant(rate, tf.float64)
    slack = 1e-12 * (size + 1)
    return tf.clip_by_value(tf.cast(tf.floor(rate * size + 0.5 + slack), tf.int32), 1, size)


def logit_for_channels(count: int, size: int, minimum: float, maximum: float = 1.0) -> float:
    """A logit at which exactly `count` channels are kept.

    Args:
        count: number of channels to keep, between those that the smallest and the largest rate keep.
        size: number of channels C.
        minimum: a_min, the smallest rate.
        maximum: a_max, the largest rate.

    Returns:
        The logit as a Python float.
    """
    # The middle of the interval of rates that give this count is the farthest from both rounding edges.
    low, high = max((count - 0.5) / size, minimum), min((count + 0.5) / size, maximum)
    return logit_from_rate((low + high) / 2, minimum, maximum)


def nearest_multiple(count: int, multiple: int, least: int, most: int) -> int:
    """The multiple of `multiple` that is the nearest to `count`, halves up.

    A count at one of its bounds stays, and so does one below the first multiple.

    Args:
        count: the number to be rounded, least <= count <= most.
        multiple: at least 1.
        least: the smallest count.
        most: the largest count.
    """
    nearest = math.floor(count / multiple + 0.5) * multiple
    return count if count in (least, most) or count < multiple else min(max(nearest, least), most)
