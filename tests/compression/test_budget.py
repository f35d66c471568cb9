"""The promise on the number of kept weights."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harp_tf.compression import project_counts, require_budget, weight_budget
from harp_tf.types import HarpError, PruningSpec


def real_counts(logits, sizes, minimum):
    rates = minimum + (1 - minimum) / (1 + np.exp(-np.asarray(logits, np.float64)))
    return rates * np.asarray(sizes)


@pytest.mark.parametrize("sparsity", ["0.9", "0.95", "0.99", "0.995", "0.999", "0.5", "0.123"])
def test_weight_budget_is_the_floor_of_exact_arithmetic(sparsity):
    rate = PruningSpec(float(sparsity)).target_rate
    for total in [*range(1, 2000), 429_968, 4_900_000, 138_000_000]:
        assert weight_budget(total, rate) == math.floor((1 - Fraction(sparsity)) * total)


def test_a_full_budget_holds_everything():
    assert weight_budget(1234, 1.0) == 1234


def test_counts_by_largest_remainder():
    # Rates of one half: real counts 5, 10 and 25 of a budget of 20 become 2.5, 5 and 12.5 by a common shift.
    assert project_counts([0.0, 0.0, 0.0], [10, 20, 50], 20) == [3, 5, 12]
    assert project_counts([0.0, 0.0, 0.0], [10, 20, 50], 21) == [3, 5, 13]
    # 13.125, 5.25 and 2.625: the last one has the largest remainder.
    assert project_counts([0.0, 0.0, 0.0], [50, 20, 10], 21) == [13, 5, 3]
    assert project_counts([0.0, 0.0], [3, 3], 3) == [2, 1]


def test_one_common_shift():
    logits, sizes, minimum = [1.0, -1.0, -3.0], [1000, 20_000, 400_000], 0.001
    counts = np.array(project_counts(logits, sizes, 12_345, minimum))
    assert counts.sum() == 12_345
    rates = (counts / sizes - minimum) / (1 - minimum)
    shifts = np.log(rates / (1 - rates)) - logits
    assert np.ptp(shifts) < 0.01


def test_minimum_counts_are_kept():
    assert project_counts([-20.0, 5.0], [1000, 1000], 100, minimum_counts=[40, 1]) == [40, 60]
    assert project_counts([-20.0, 5.0], [1000, 1000], 100) == [1, 99]


def test_runaway_logits():
    counts = project_counts([38.7, -6.0, 100.0], [5000, 100_000, 400], 1000)
    assert sum(counts) == 1000
    assert min(counts) >= 1


def test_a_budget_above_the_size_of_the_network():
    assert project_counts([0.0, 0.0], [10, 20], 100) == [10, 20]


def test_an_impossible_budget():
    with pytest.raises(HarpError, match="budget of 2 weights cannot be met: the 3 prunable layers .* at least 3"):
        project_counts([0.0, 0.0, 0.0], [10, 20, 50], 2)
    with pytest.raises(HarpError, match="at least 1,005, .* Choose a lower target sparsity, a smaller floor_factor"):
        require_budget(1004, [1000, 5])
    require_budget(1005, [1000, 5])


LAYERS = st.lists(st.tuples(st.integers(1, 5_000_000), st.floats(-12, 5)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.sampled_from([0.1, 0.05, 0.01, 0.005, 0.001]), st.sampled_from([0.0, 0.1]))
def test_every_projection_meets_its_budget_exactly(layers, rate, floor_factor):
    sizes, logits = [size for size, _ in layers], [logit for _, logit in layers]
    budget = weight_budget(sum(sizes), rate)
    if budget < len(sizes):
        with pytest.raises(HarpError):
            project_counts(logits, sizes, budget, floor_factor * rate)
        return
    if real_counts(logits, sizes, floor_factor * rate).sum() < budget:
        return  # they meet it already
    counts = project_counts(logits, sizes, budget, floor_factor * rate)
    assert sum(counts) == budget
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
