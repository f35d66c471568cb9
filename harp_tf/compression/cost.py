"""What a layer costs, and the penalty L_hw on the cost of the whole network."""

import math
from collections.abc import Sequence

import tensorflow as tf


def multiply_adds(kernel_size: int, positions: int) -> int:
    """Multiply-add operations of one kernel for one example.

    Args:
        kernel_size: number of weights of the kernel.
        positions: how many times each weight is used for one example: output pixels of a convolution, input
            pixels of a transposed one, 1 for a Dense layer on a vector; summed over all calls of a shared layer.

    Returns:
        Number of multiply-adds.
    """
    return kernel_size * positions


def hw_loss(rates: Sequence[tf.Tensor], costs: Sequence[float], target_rate: float) -> tf.Tensor:
    """L_hw = max(sum of a_l c_l / (a_t * sum of c_l) - 1, 0).

    Args:
        rates: float32 scalars a_l, one per layer.
        costs: c_l, the cost of each layer when nothing is removed (weights or multiply-adds).
        target_rate: a_t, the fraction of the total cost that may remain, in (0, 1].

    Returns:
        float32 scalar, 0 when the network is within its target.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023, equation 5.
    """
    return tf.nn.relu(overall_rate(rates, costs) / target_rate - 1.0)


def overall_rate(rates: Sequence[tf.Tensor], costs: Sequence[float]) -> tf.Tensor:
    """The fraction of the total cost that remains, sum of a_l c_l / sum of c_l, as a float32 scalar."""
    weights = tf.constant([cost / math.fsum(costs) for cost in costs], tf.float32)
    return tf.reduce_sum(tf.stack(list(rates)) * weights)
