"""Uniform rates: every layer keeps the same fraction."""

from collections.abc import Sequence

from harp_tf.strategies.base import KernelInfo


def uniform(kernels: Sequence[KernelInfo], rate: float) -> dict[str, float]:
    """Gives every kernel the overall rate.

    Args:
        kernels: the prunable kernels.
        rate: fraction of the weights to keep, in (0, 1].

    Returns:
        Rate by path.
    """
    return {kernel.path: rate for kernel in kernels}
