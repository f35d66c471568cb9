"""Rates, logits and counts: one rounding rule, finite logits, a way back from every end."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.compression import (
    float32_at_most,
    keep_count,
    logit_bounds,
    logit_for_count,
    logit_from_rate,
    rate_from_logit,
)
from harp_tf.types import HarpError

GOLDEN = np.load(Path(__file__).parents[1] / "golden/harp_reference.npz", allow_pickle=False)
FLOORS = [0.0, 1e-4, 1e-3, 0.01]


def test_golden_counts():
    rates, sizes, removed = GOLDEN["kept/k"], GOLDEN["kept/n"], GOLDEN["kept/j_float64"]
    for size, row in zip(sizes.tolist(), removed, strict=True):
        kept = [int(keep_count(tf.constant(rate), size)) for rate in rates]
        np.testing.assert_array_equal(kept, np.maximum(size - row, 1), err_msg=f"{size} weights")


def test_counts_are_those_of_exact_arithmetic():
    # n - floor((1 - a) n) = ceil(a n), with the rate at its exact value.
    draws = np.random.default_rng(0)
    for size in [1, 2, 7, 10, 144, 1000, 36_864, 4_000_000]:
        for rate in draws.uniform(0, 1, 25).astype(np.float32):
            assert int(keep_count(tf.constant(rate), size)) == max(math.ceil(Fraction(float(rate)) * size), 1)


def test_float_rounding_never_changes_a_count():
    # Products such as 0.29 * 100 = 28.999999999999996 and 1 - 0.9 = 0.09999999999999998.
    for size in (10, 100, 1000, 100_000):
        for removed in range(0, size, max(size // 100, 1)):
            assert int(keep_count(1 - removed / size, size)) == size - removed


def test_a_count_is_never_zero_nor_above_the_size():
    assert [int(keep_count(rate, 5)) for rate in (0.0, 1e-12, 1.0)] == [1, 1, 5]
    assert int(keep_count(0.0, 1)) == 1


def test_golden_logits():
    for index in range(6):
        rate, floor, logit, back = GOLDEN[f"rate_init/{index}"]
        found = logit_from_rate(rate, floor)
        returned = float(rate_from_logit(tf.constant(found, tf.float32), floor))
        assert math.isfinite(found)
        assert returned == pytest.approx(rate, rel=1e-6)
        if rate < 1:  # at 1 the reference clips and comes back with 0.99
            # The reference takes the logit of a float32 number, of 0.5 with an error of a rounding, 1e-7.
            assert found == pytest.approx(logit, rel=1e-6, abs=2e-7)
            assert returned == pytest.approx(back, rel=1e-6)


@pytest.mark.parametrize("floor", FLOORS)
def test_every_rate_has_a_finite_logit_and_comes_back(floor):
    for rate in (1.2 * floor + 1e-9, 0.02, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1.0):
        logit = logit_from_rate(rate, floor)
        assert math.isfinite(logit)
        assert float(rate_from_logit(tf.constant(logit), floor)) == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("floor", [1e-4, 1e-3, 0.01])
def test_a_rate_at_or_below_the_floor_stays_learnable(floor):
    for rate in (0.0, floor / 2, floor):
        assert logit_from_rate(rate, floor) == logit_bounds(floor)[0]
    assert float(rate_from_logit(tf.constant(logit_bounds(floor)[0]), floor)) == pytest.approx(1.1 * floor, rel=1e-3)


def test_the_sigmoid_has_a_slope_at_both_bounds():
    for floor in (1e-4, 1e-3, 0.01):
        for bound in logit_bounds(floor):
            logit = tf.constant(bound)
            with tf.GradientTape() as tape:
                tape.watch(logit)
                rate = rate_from_logit(logit, floor)
            assert tape.gradient(rate, logit) > 0.05 * min(floor, 1 - 0.9933)


def test_a_logit_keeps_the_same_count_eager_compiled_and_under_xla():
    logits = np.random.default_rng(0).uniform(-9, 5, 500).astype(np.float32)

    def rate(logit):
        return rate_from_logit(logit, 0.001)

    eager = [rate(tf.constant(x)).numpy() for x in logits]
    for function in (tf.function(rate), tf.function(rate, jit_compile=True)):
        np.testing.assert_array_equal([function(tf.constant(x)).numpy() for x in logits], eager)


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 144, 1728, 36_864, 262_144, 2_359_296, 4_000_000])
def test_logit_for_count_is_exact(size, floor):
    least = int(keep_count(tf.constant(floor, tf.float32), size))
    fractions = (0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.999)
    counts = {least, least + 1, 1, 2, size - 2, size - 1, size} | {round(f * size) for f in fractions}
    for count in counts:
        if least <= count <= size:
            logit = logit_for_count(count, size, floor)
            assert logit == np.float32(logit)
            assert int(keep_count(rate_from_logit(tf.constant(logit), floor), size)) == count


def test_logit_for_every_count_of_a_small_layer():
    for count in range(1, 145):
        logit = tf.constant(logit_for_count(count, 144, 0.001))
        assert int(keep_count(rate_from_logit(logit, 0.001), 144)) == count


def test_logit_for_count_never_keeps_more_where_float32_is_too_coarse():
    size = 100_000_000
    for count in (1_000_000, 50_000_001, 99_000_003, 99_999_999, size):
        kept = int(keep_count(rate_from_logit(tf.constant(logit_for_count(count, size, 1e-3)), 1e-3), size))
        assert count - 10 <= kept <= count


@pytest.mark.parametrize("count", [0, 1, 9, 1001])
def test_an_impossible_count_is_refused(count):
    with pytest.raises(HarpError, match="keeps between 10 and 1000 of them, .* were asked for"):
        logit_for_count(count, 1000, 0.0099)


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.05, 0.3, 0.7, 0.9, 1e-4])
def test_the_float32_ceiling_never_lies_above(rate):
    ceiling = float32_at_most(rate)
    assert ceiling == np.float32(ceiling) and rate * (1 - 1e-7) <= ceiling <= rate
    assert float32_at_most(ceiling) == ceiling


@pytest.mark.parametrize(("floor", "ceiling"), [(0.001, 0.05), (0.2, 0.4), (0.5, 1.0)])
def test_rates_between_a_floor_and_a_ceiling(floor, ceiling):
    ceiling = float32_at_most(ceiling)
    for rate in (1.2 * floor, (floor + ceiling) / 2, 0.99 * ceiling, ceiling):
        logit = logit_from_rate(rate, floor, ceiling)
        assert float(rate_from_logit(tf.constant(logit), floor, ceiling)) == pytest.approx(rate, rel=1e-5)
    assert logit_from_rate(2 * ceiling, floor, ceiling) == logit_from_rate(ceiling, floor, ceiling)
    low, high = (float(rate_from_logit(tf.constant(b), floor, ceiling)) for b in logit_bounds(floor, ceiling))
    assert floor < low <= floor + 0.01 * (ceiling - floor) + 1e-7
    assert 0.99 * ceiling < high < ceiling
    for count in (math.ceil(floor * 1000) + 1, round(700 * ceiling + 300 * floor), round(1000 * ceiling)):
        logit = tf.constant(logit_for_count(count, 1000, floor, ceiling))
        assert int(keep_count(rate_from_logit(logit, floor, ceiling), 1000)) == count
    with pytest.raises(HarpError, match=f"keeps between .* and {round(1000 * ceiling)} of them, 1001 were asked for"):
        logit_for_count(1001, 1000, floor, ceiling)


def test_equal_bounds_leave_the_logit_no_say():
    assert logit_from_rate(0.3, 0.3, 0.3) == 0.0
    for logit in (-9.0, 0.0, 9.0):
        assert float(rate_from_logit(tf.constant(logit), 0.25, 0.25)) == 0.25
