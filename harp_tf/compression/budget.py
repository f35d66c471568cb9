"""The promise on the number of kept weights, and the projection of rates that do not keep it."""

import math
from collections.abc import Sequence

import numpy as np

from harp_tf.types import HarpError


def weight_budget(total: int, target_rate: float) -> int:
    """floor(a_t * n): how many of `total` weights may remain.

    Args:
        total: number of prunable weights of the network.
        target_rate: a_t, the fraction to keep, in (0, 1].

    Returns:
        The largest permitted number of kept weights. A product that misses a whole number only through
        float rounding counts as that whole number (0.1 * 1000 is 100).
    """
    return math.floor(target_rate * total + 1e-6)


def require_budget(budget: int, minimum_counts: Sequence[int]) -> None:
    """Raises a HarpError if the smallest counts of all layers together exceed the budget."""
    if sum(minimum_counts) > budget:
        raise HarpError(
            f"A budget of {budget:,} weights cannot be met: the {len(minimum_counts)} prunable layers together keep at "
            f"least {int(sum(minimum_counts)):,}, since no layer loses its last weight or falls below the floor of the "
            "rates. Choose a lower target sparsity, a smaller floor_factor, or skip the smallest layers."
        )


def project_counts(
    logits: Sequence[float],
    sizes: Sequence[int],
    budget: int,
    minimum_rate: float = 0.0,
    minimum_counts: Sequence[int] | None = None,
) -> list[int]:
    """Whole numbers of kept weights per layer that sum to at most `budget`.

    All rate logits are shifted by one common amount, so that the real-valued counts meet the budget; each is
    rounded down, and what is left goes to the largest remainders (ties: the earlier layer). No layer falls below
    its minimum count. Logits whose counts fall short of the budget are shifted upwards: ask only when they exceed it.

    Args:
        logits: rate logits r_l, one per layer.
        sizes: number of weights n_l per layer.
        budget: the largest permitted sum of counts.
        minimum_rate: a_min of the logits' parametrisation.
        minimum_counts: the smallest count of each layer, 1 unless given.

    Returns:
        Counts k_l with minimum_l <= k_l <= n_l, whose sum is `budget` if the layers can hold that many.

    Raises:
        HarpError: if the minimum counts alone exceed the budget.
    """
    n = np.asarray(sizes, np.float64)
    r = np.asarray(logits, np.float64)
    least = np.ones(len(n)) if minimum_counts is None else np.asarray(minimum_counts, np.float64)
    require_budget(budget, list(least))

    def real_counts(shift: float) -> np.ndarray:
        rate = minimum_rate + (1.0 - minimum_rate) / (1.0 + np.exp(-np.clip(r + shift, -700, 700)))
        return np.clip(rate * n, least, n)

    low, high = -100.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if real_counts(middle).sum() <= budget else (low, middle)
    real = real_counts(low)
    counts = np.maximum(np.floor(real + 1e-9), least)
    room = min(budget, int(n.sum())) - int(counts.sum())
    for layer in np.argsort(-(real - counts), kind="stable"):
        if room <= 0:
            break
        if counts[layer] < n[layer]:
            counts[layer] += 1
            room -= 1
    return [int(count) for count in counts]
