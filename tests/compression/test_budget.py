"""The promise on the number of kept weights."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harp_tf.compression import cost_budget, project_counts, require_budget
from harp_tf.types import HarpError, PruningSpec


def real_counts(logits, sizes, minimum):
    rates = minimum + (1 - minimum) / (1 + np.exp(-np.asarray(logits, np.float64)))
    return rates * np.asarray(sizes)


@pytest.mark.parametrize("sparsity", ["0.9", "0.95", "0.99", "0.995", "0.999", "0.5", "0.123"])
def test_cost_budget_is_the_floor_of_exact_arithmetic(sparsity):
    rate = PruningSpec(float(sparsity)).target_rate
    for total in [*range(1, 2000), 429_968, 4_900_000, 138_000_000]:
        assert cost_budget(total, rate) == math.floor((1 - Fraction(sparsity)) * total)


def test_budgets_beyond_the_precision_of_floats():
    assert cost_budget(10**18, 0.5) == 5 * 10**17
    assert cost_budget(10**18 + 1, 1.0) == 10**18 + 1
    assert cost_budget(10**18 + 99, PruningSpec(0.99).target_rate) == 10**16
    assert cost_budget(3 * 10**15, 1 - 2 / 3) == 10**15
    assert cost_budget(10**6, 0.1234567891) == 123_456


def test_a_full_budget_holds_everything():
    assert cost_budget(1234, 1.0) == 1234


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


def test_expensive_units_leave_room_to_cheap_ones():
    # Real counts 5 and 5 cost 505; of 454 the shift leaves 4.5 each. A fifth unit of the first does not fit.
    assert project_counts([0.0, 0.0], [10, 10], 454, unit_costs=[100, 1]) == [4, 10]
    assert project_counts([0.0, 0.0], [10, 100], 454, unit_costs=[100, 1]) == [4, 54]
    # Both fit, and the larger remainder comes first.
    assert project_counts([0.0, 0.0], [11, 10], 600, unit_costs=[100, 1]) == [5, 10]


def test_maximum_counts_and_rates():
    assert project_counts([5.0, 0.0], [100, 100], 100, maximum_counts=[30, 100]) == [30, 70]
    assert project_counts([0.0, 0.0], [1000, 1000], 300, maximum_rate=[0.2, 1.0], maximum_counts=[200, 1000]) == [
        50,
        250,
    ]
    assert project_counts([1.0, 1.0], [10, 20], 1000, maximum_counts=[4, 20]) == [4, 20]


def test_counts_by_multiples():
    # A minimum is permitted though it is no multiple, and so is a maximum.
    assert project_counts([0.0, 0.0], [64, 64], 64, multiples=[8, 8]) == [32, 32]
    assert project_counts([0.0, 0.0], [64, 64], 63, multiples=[8, 8]) == [32, 24]
    assert project_counts([-9.0, 5.0], [64, 20], 21, multiples=[8, 8]) == [1, 20]
    assert project_counts([-9.0, 5.0], [64, 20], 20, multiples=[8, 8]) == [1, 16]


def test_counts_below_the_first_multiple_are_not_rounded():
    assert project_counts([0.0, 0.0], [16, 16], 15, multiples=[8, 8]) == [8, 7]
    assert project_counts([0.0, 0.0], [16, 16], 11, multiples=[8, 8]) == [5, 5]


def test_costs_of_billions_are_exact():
    costs = [10**12 + 1, 10**12 + 3, 1]
    counts = project_counts([0.0, 1.0, -1.0], [1000, 1000, 1000], 10**15 + 7, unit_costs=costs)
    assert sum(k * c for k, c in zip(counts, costs, strict=True)) <= 10**15 + 7


@st.composite
def layers(draw):
    """Layers as keyword arguments of `project_counts`, with a budget that can be met."""
    sizes = draw(st.lists(st.integers(1, 100_000), min_size=1, max_size=10))
    each = {"min_size": len(sizes), "max_size": len(sizes)}
    floors = [math.ceil(draw(st.floats(0, 0.3)) * n) for n in sizes]
    most = [max(least, n - draw(st.integers(0, n // 2)), 1) for least, n in zip(floors, sizes, strict=True)]
    least = [min(max(floor, 1), top) for floor, top in zip(floors, most, strict=True)]
    costs = draw(st.lists(st.sampled_from([1, 4, 7, 49, 1000, 12_544]), **each))
    lowest = sum(k * c for k, c in zip(least, costs, strict=True))
    return {
        "logits": draw(st.lists(st.floats(-15, 40), **each)),
        "sizes": sizes,
        "budget": lowest + int(draw(st.floats(0, 1)) * sum(n * c for n, c in zip(sizes, costs, strict=True))),
        "minimum_rate": [k / n if k > 1 else 0.0 for k, n in zip(least, sizes, strict=True)],
        "minimum_counts": least,
        "maximum_rate": [k / n for k, n in zip(most, sizes, strict=True)],
        "maximum_counts": most,
        "unit_costs": costs,
        "multiples": draw(st.lists(st.sampled_from([1, 1, 8, 32]), **each)),
    }


@settings(max_examples=150, deadline=None)
@given(layers())
def test_a_projection_never_exceeds_its_budget_and_leaves_no_room(layers):
    counts = project_counts(**layers)
    room = layers["budget"] - sum(k * c for k, c in zip(counts, layers["unit_costs"], strict=True))
    assert room >= 0
    rows = zip(*(layers[key] for key in ("minimum_counts", "maximum_counts", "unit_costs", "multiples")), strict=True)
    for count, (least, most, cost, multiple) in zip(counts, rows, strict=True):
        assert isinstance(count, int)
        assert least <= count <= most
        assert count in (least, most) or count % multiple == 0 or count < multiple
        following = min((count // multiple + 1) * multiple, most)
        assert following == count or (following - count) * cost > room


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_layers_does_not_matter(seed):
    """But for ties, which go to the earlier layer; continuous logits away from the bounds have none."""
    draws = np.random.default_rng(seed)
    length = draws.integers(2, 10)
    sizes, costs = draws.integers(1000, 100_000, length), draws.choice([1, 7, 49, 1000], length)
    columns = {"sizes": sizes, "logits": draws.uniform(-2, 2, length), "unit_costs": costs}
    columns["multiples"] = draws.choice([1, 1, 8], length)
    budget = int(draws.uniform(0.2, 0.8) * int(sizes @ costs))
    order = draws.permutation(length)
    counts = project_counts(budget=budget, **columns)
    shuffled = project_counts(budget=budget, **{key: values[order] for key, values in columns.items()})
    assert shuffled == [counts[i] for i in order]


def by_largest_remainder(logits, sizes, budget, minimum):
    """Units of equal cost: one shift, rounded down, one more to the largest remainders."""
    low, high = -100.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        fits = np.maximum(real_counts(np.add(logits, middle), sizes, minimum), 1).sum() <= budget
        low, high = (middle, high) if fits else (low, middle)
    real = np.maximum(real_counts(np.add(logits, low), sizes, minimum), 1)
    counts = np.floor(real + 1e-9)
    for layer in np.argsort(-np.round(real - counts, 9), kind="stable"):
        if counts.sum() < budget and counts[layer] < sizes[layer]:
            counts[layer] += 1
    return counts.astype(int).tolist()


LAYERS = st.lists(st.tuples(st.integers(1, 5_000_000), st.floats(-12, 5)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.sampled_from([0.1, 0.05, 0.01, 0.005, 0.001]), st.sampled_from([0.0, 0.1]))
def test_equal_units_meet_their_budget_exactly(layers, rate, floor_factor):
    sizes, logits = [size for size, _ in layers], [logit for _, logit in layers]
    budget = cost_budget(sum(sizes), rate)
    if budget < len(sizes):
        with pytest.raises(HarpError):
            project_counts(logits, sizes, budget, floor_factor * rate)
        return
    if real_counts(logits, sizes, floor_factor * rate).sum() < budget:
        return  # they meet it already
    counts = project_counts(logits, sizes, budget, floor_factor * rate)
    assert sum(counts) == budget
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert counts == by_largest_remainder(logits, sizes, budget, floor_factor * rate)
