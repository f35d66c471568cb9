"""Ideal-gas-quota rates: of large kernels almost the same number of weights is kept, of small ones a large share."""

from collections.abc import Sequence

from harp_tf.strategies.base import KernelInfo

_HALVINGS = 100
"""Of the range in which the force lies: more than float64 can tell apart."""


def igq(kernels: Sequence[KernelInfo], rate: float) -> dict[str, float]:
    """Rates 1 / (1 + f n) of kernels with n weights, with the one force f at which the overall rate is met.

    Args:
        kernels: the prunable kernels.
        rate: overall fraction of the weights to keep, in (0, 1].

    Returns:
        Rate by path; the rates weighted by size sum to `rate` of all weights.

    Reference:
        Vysogorets & Kempe, Connectivity Matters: Neural Network Pruning Through the Lens of Effective Sparsity, JMLR
        24 (2023): layers as volumes of gas that one force compresses.
    """
    sizes = {k.path: k.size for k in kernels}
    wanted = rate * sum(sizes.values())
    # At the upper end the kernels keep no more than len(sizes) / f <= wanted weights.
    low, high = 0.0, len(sizes) / wanted
    for _ in range(_HALVINGS):
        force = (low + high) / 2
        if sum(n / (1 + force * n) for n in sizes.values()) > wanted:
            low = force
        else:
            high = force
    return {path: 1 / (1 + low * n) for path, n in sizes.items()}
