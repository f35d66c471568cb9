"""Comparisons of pruning methods: methods x sparsities x losses x seeds, one dense model per loss."""

from harp_tf.comparison.budget import gradient_passes, passes_per_step
from harp_tf.comparison.cells import CHOICES, CONTROL, DENSE, RATES, Axes, Cell, plan
from harp_tf.comparison.comparison import Comparison

__all__ = [
    "CHOICES",
    "CONTROL",
    "DENSE",
    "RATES",
    "Axes",
    "Cell",
    "Comparison",
    "gradient_passes",
    "passes_per_step",
    "plan",
]
