"""Counts of channels: one rounding rule, logits that come back, multiples."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.compression import (
    keep_channels,
    logit_bounds,
    logit_for_channels,
    nearest_multiple,
    rate_from_logit,
)


def test_counts_are_rounded_and_never_zero():
    assert [int(keep_channels(rate, 6)) for rate in (0.0, 0.057, 0.276, 0.505, 0.882, 0.9976, 1.0)] == [
        *(1, 1, 2, 3, 5, 6, 6)
    ]
    assert int(keep_channels(0.5, 5)) == 3  # halves up
    assert int(keep_channels(0.0, 1)) == 1


def test_counts_are_those_of_exact_arithmetic():
    draws = np.random.default_rng(0)
    for size in [1, 2, 7, 64, 1280, 100_000]:
        for rate in draws.uniform(0, 1, 25).astype(np.float32):
            exact = int(Fraction(float(rate)) * size + Fraction(1, 2))
            assert int(keep_channels(tf.constant(rate), size)) == max(exact, 1)


@pytest.mark.parametrize("minimum, maximum", [(0.0, 1.0), (0.05, 1.0), (0.3, 0.5)])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 1280])
def test_every_count_has_a_logit(size, minimum, maximum):
    lowest = logit_bounds(minimum, maximum)[0]
    least = int(keep_channels(rate_from_logit(tf.constant(lowest), minimum, maximum), size))
    for count in range(least, int(keep_channels(maximum, size)) + 1):
        logit = tf.constant(logit_for_channels(count, size, minimum, maximum))
        assert int(keep_channels(rate_from_logit(logit, minimum, maximum), size)) == count


def test_multiples():
    assert [nearest_multiple(k, 8, 1, 64) for k in (9, 11, 12, 16, 59, 60, 63)] == [8, 8, 16, 16, 56, 64, 64]
    assert [nearest_multiple(k, 1, 1, 64) for k in (1, 5, 64)] == [1, 5, 64]
    # Below the first multiple, at a bound, or rounded beyond one.
    assert [nearest_multiple(k, 8, 1, 64) for k in (1, 3, 7)] == [1, 3, 7]
    assert [nearest_multiple(k, 8, 5, 20) for k in (5, 20, 19, 10)] == [5, 20, 16, 8]
    assert nearest_multiple(21, 8, 18, 22) == 22
