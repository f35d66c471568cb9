"""Least-weight-magnitude pruning in one shot: per layer, or over all layers."""

from collections.abc import Sequence

import keras
import numpy as np

from harp_tf.baselines.base import WEIGHTS_ONLY, Method, keep_largest
from harp_tf.compression import cost_budget
from harp_tf.layers import pruned_kernels
from harp_tf.strategies import KernelInfo


def global_rates(kernels: Sequence[KernelInfo], rate: float) -> dict[str, float]:
    """Rates of a cut through all kernels at one magnitude.

    Args:
        kernels: the prunable kernels.
        rate: overall fraction of the weights to keep, in (0, 1].

    Returns:
        Rate by path. Together floor(rate * n) weights are kept: the largest of each kernel, so that none is lost, and
        the largest of all others.

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015.
    """
    everything = []
    for kernel in kernels:
        magnitudes = np.abs(kernel.values).ravel()
        magnitudes[np.argmax(magnitudes)] = np.inf
        everything.append(magnitudes)
    joined = np.concatenate(everything)
    keep = max(cost_budget(joined.size, rate), len(kernels))
    # Positions, not a threshold: equal weights must not keep more than `keep`.
    kept = np.argsort(-joined, kind="stable")[:keep]
    counts = np.histogram(kept, np.cumsum([0] + [kernel.size for kernel in kernels]) - 0.5)[0]
    return {kernel.path: int(count) / kernel.size for kernel, count in zip(kernels, counts, strict=True)}


def keep_heaviest(network: keras.Model, seed: int) -> None:
    """Lets each mask keep the weights of largest magnitude; `seed` decides nothing."""
    for kernel in pruned_kernels(network):
        keep_largest(kernel, keras.ops.convert_to_numpy(kernel.variable))


LWM_LAYER = Method(start=keep_heaviest, only=WEIGHTS_ONLY, trains=None)
"""The largest weights of each layer, at the same rate in all of them."""

LWM = Method(
    strategy="global", other_rates=False, rule=global_rates, start=keep_heaviest, only=WEIGHTS_ONLY, trains=None
)
"""The largest weights of the network."""
