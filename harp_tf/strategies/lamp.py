"""Layer-adaptive magnitude rates: how much of each layer survives a global cut by LAMP score."""

from collections.abc import Sequence

import numpy as np

from harp_tf.compression import cost_budget
from harp_tf.strategies.base import KernelInfo


def lamp(kernels: Sequence[KernelInfo], rate: float) -> dict[str, float]:
    """Rates of a global cut by the score w^2 / (sum of all w'^2 >= w^2 in the same kernel).

    Args:
        kernels: the prunable kernels with their weights.
        rate: overall fraction of the weights to keep, in (0, 1].

    Returns:
        Rate by path; the rates weighted by size sum to `rate` of all weights, rounded down, as long as that is one
        weight per kernel or more. The largest weight of a kernel has score 1, so every kernel keeps at least one.

    Reference:
        Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, equation 3.
    """
    scores = [_scores(kernel.values) for kernel in kernels]
    everything = np.concatenate(scores)
    keep = max(cost_budget(everything.size, rate), len(kernels))
    # Positions, not a threshold: tied scores (weights that are 0 already) must not keep more than `keep`.
    kept = np.argpartition(everything, everything.size - keep)[everything.size - keep :]
    counts = np.histogram(kept, np.cumsum([0] + [kernel.size for kernel in kernels]) - 0.5)[0]
    return {kernel.path: max(int(count), 1) / kernel.size for kernel, count in zip(kernels, counts, strict=True)}


def _scores(values: np.ndarray) -> np.ndarray:
    squares = np.sort(np.square(values.astype(np.float64)).ravel())[::-1]
    totals = np.cumsum(squares)
    return np.divide(squares, totals, out=np.zeros_like(squares), where=totals > 0)
