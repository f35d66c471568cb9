"""The promise on what a pruned network may cost, and the projection of rates that do not keep it."""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from harp_tf.types import HarpError

COST_UNITS = {"weights": "weights", "flops": "multiply-adds"}
"""What each budget of `types.BUDGETS` counts, in words."""

_FLOAT_ROUNDING = Fraction(1, 2**52)
"""How far 1 minus a decimal fraction in (0, 1) may be from what is meant, at most."""


def cost_budget(total: int, target_rate: float) -> int:
    """floor(a_t * c): how much of a network's cost may remain.

    Args:
        total: cost of the prunable layers when nothing is removed, in weights or multiply-adds.
        target_rate: a_t, the fraction to keep, in (0, 1].

    Returns:
        The largest permitted cost. A rate that is a fraction with a denominator of at most 10^7 but for float
        rounding counts as that fraction, so 0.1 of 1000 is 100, and (1 - 0.9) of it too.
    """
    rate = Fraction(target_rate)
    meant = rate.limit_denominator(10**7)
    return math.floor((meant if abs(meant - rate) <= _FLOAT_ROUNDING else rate) * total)


def require_budget(budget: int, minimum_costs: Sequence[int], unit: str = COST_UNITS["weights"]) -> None:
    """Raises a HarpError if the smallest costs of all layers together exceed the budget.

    Args:
        budget: what is permitted.
        minimum_costs: what each layer costs at its smallest count.
        unit: what is counted, in words.
    """
    least = sum(int(cost) for cost in minimum_costs)
    if least > budget:
        raise HarpError(
            f"A budget of {budget:,} {unit} cannot be met: the {len(minimum_costs)} prunable layers together keep at "
            f"least {least:,}, since no layer loses its last weight or falls below the floor of the "
            "rates. Choose a lower target sparsity, a smaller floor_factor, lower floors in rate_bounds, or skip the "
            "smallest layers."
        )


def project_counts(
    logits: Sequence[float],
    sizes: Sequence[int],
    budget: int,
    minimum_rate: float | Sequence[float] = 0.0,
    minimum_counts: Sequence[int] | None = None,
    *,
    maximum_rate: float | Sequence[float] = 1.0,
    maximum_counts: Sequence[int] | None = None,
    unit_costs: Sequence[int] | None = None,
    multiples: Sequence[int] | None = None,
    unit: str = COST_UNITS["weights"],
) -> list[int]:
    """Whole numbers of kept units per layer whose cost is at most `budget`.

    A unit is what a mask keeps or removes as a whole: one weight, or one channel of a group of layers that share it.
    All rate logits are shifted by one common amount, so that the real-valued counts meet the budget; each is
    rounded down to a count that is permitted; then the layer that is the furthest below its real count takes the
    next step (ties: the earlier layer), again and again, and a layer whose step no longer fits drops out. Costs are
    added up in whole numbers. Logits whose counts fall short of the budget are shifted upwards: ask only when they
    exceed it.

    A count is permitted if it is the layer's minimum, its maximum, or a multiple of its `multiples` in between; below
    the first multiple every count is, so that no small layer falls to its minimum for the sake of rounding.

    Args:
        logits: rate logits r_l, one per layer.
        sizes: number of units n_l per layer.
        budget: the largest permitted sum of k_l * unit_cost_l.
        minimum_rate: a_min of the logits' parametrisation, one for all or one per layer.
        minimum_counts: the smallest count of each layer, 1 unless given.
        maximum_rate: a_max of the parametrisation, likewise.
        maximum_counts: the largest count of each layer, n_l unless given.
        unit_costs: what one unit of each layer costs, whole numbers of at least 1; 1 unless given.
        multiples: per layer, a number of which its count is a multiple where it can be; 1 unless given.
        unit: what the budget counts, in words, for the error.

    Returns:
        Permitted counts k_l with minimum_l <= k_l <= maximum_l, whose cost does not exceed the budget, and in which
        no layer could take its next step: with unit costs and multiples of 1 their sum is `budget` if the layers can
        hold that many.

    Raises:
        HarpError: if the minimum counts alone exceed the budget.
    """
    layers = len(sizes)
    costs = [1] * layers if unit_costs is None else [int(cost) for cost in unit_costs]
    least = [1] * layers if minimum_counts is None else [int(count) for count in minimum_counts]
    most = [int(size) for size in (sizes if maximum_counts is None else maximum_counts)]
    steps = [1] * layers if multiples is None else [int(multiple) for multiple in multiples]
    require_budget(budget, [cost * count for cost, count in zip(costs, least, strict=True)], unit)
    r, n = np.asarray(logits, np.float64), np.asarray(sizes, np.float64)
    lowest, highest = np.asarray(minimum_rate, np.float64), np.asarray(maximum_rate, np.float64)

    def real_counts(shift: float) -> np.ndarray:
        rate = lowest + (highest - lowest) / (1.0 + np.exp(-np.clip(r + shift, -700, 700)))
        return np.clip(rate * n, least, most)

    def rounded_down(real: np.ndarray) -> list[int]:
        # A count that misses a whole number only through float rounding is that number.
        floors = [math.floor(count + 1e-9) for count in real]
        return [
            high if floor >= high else max(floor if floor < step else floor // step * step, low)
            for floor, step, low, high in zip(floors, steps, least, most, strict=True)
        ]

    def fits(shift: float) -> bool:
        real = real_counts(shift)
        return float(real @ np.asarray(costs, np.float64)) <= budget and _cost(rounded_down(real), costs) <= budget

    low, high = -100.0 - max(r.max(), 0.0), 100.0 - min(r.min(), 0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    real = real_counts(low)
    counts = rounded_down(real)
    if _cost(counts, costs) > budget:  # even at the smallest rates: only the minimum counts are sure to fit
        counts = list(least)
    room = budget - _cost(counts, costs)

    def shortfall(layer: int) -> tuple[float, int]:
        return -round((real[layer] - counts[layer]) / steps[layer], 9), layer

    waiting = [shortfall(layer) for layer in range(layers)]
    heapq.heapify(waiting)
    while waiting:
        _, layer = heapq.heappop(waiting)
        following = min((counts[layer] // steps[layer] + 1) * steps[layer], most[layer])
        price = (following - counts[layer]) * costs[layer]
        if 0 < price <= room:
            counts[layer], room = following, room - price
            heapq.heappush(waiting, shortfall(layer))
    return counts


def _cost(counts: Sequence[int], costs: Sequence[int]) -> int:
    return sum(count * cost for count, cost in zip(counts, costs, strict=True))
