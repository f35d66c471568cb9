"""Pruned Keras layers, and the way from a dense model to a pruned one and back."""

from harp_tf.layers.budget import Budget, budget_of, project_to_budget
from harp_tf.layers.cost import Cost, fixed_cost, kernel_costs, layer_costs
from harp_tf.layers.count import kernel_nonzeros, prunable_weights
from harp_tf.layers.kernel import Kernel
from harp_tf.layers.model import (
    PrunedKernel,
    masked_kernels,
    pruned_kernels,
    pruning_spec,
    rate_table,
)
from harp_tf.layers.prune import describe, prune
from harp_tf.layers.pruned import PrunedLayer, shared_kernels
from harp_tf.layers.registry import kernels_of, pruned_class, register_kernels
from harp_tf.layers.set_stage import set_stage
from harp_tf.layers.strip import strip

__all__ = [
    "Budget",
    "Cost",
    "Kernel",
    "PrunedKernel",
    "PrunedLayer",
    "budget_of",
    "describe",
    "fixed_cost",
    "kernel_costs",
    "kernel_nonzeros",
    "kernels_of",
    "layer_costs",
    "masked_kernels",
    "project_to_budget",
    "prunable_weights",
    "prune",
    "pruned_class",
    "pruned_kernels",
    "pruning_spec",
    "rate_table",
    "register_kernels",
    "set_stage",
    "shared_kernels",
    "strip",
]
