"""Erdős–Rényi-kernel rates: large kernels are pruned more than small ones."""

from collections.abc import Sequence

from harp_tf.strategies.base import KernelInfo


def erk(kernels: Sequence[KernelInfo], rate: float) -> dict[str, float]:
    """Rates in proportion to (sum of the kernel's dimensions) / (product of them), capped at 1.

    Args:
        kernels: the prunable kernels.
        rate: overall fraction of the weights to keep, in (0, 1].

    Returns:
        Rate by path; the rates weighted by size sum to `rate` of all weights.

    Reference:
        Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020, section 3.
    """
    density = {k.path: sum(k.values.shape) / k.size for k in kernels}
    full: set[str] = set()
    while True:
        # Kernels whose share exceeds 1 are kept whole, and the others share what is left.
        free = [k for k in kernels if k.path not in full]
        room = rate * sum(k.size for k in kernels) - sum(k.size for k in kernels if k.path in full)
        scale = room / sum(density[k.path] * k.size for k in free) if free else 0.0
        exceeding = {k.path for k in free if scale * density[k.path] > 1.0}
        if not exceeding:
            return {k.path: 1.0 if k.path in full else scale * density[k.path] for k in kernels}
        full |= exceeding
