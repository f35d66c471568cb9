"""Pruned Keras layers, and the way from a dense model to a pruned one and back."""

from harp_tf.layers.count import kernel_nonzeros
from harp_tf.layers.kernel import Kernel
from harp_tf.layers.model import (
    PrunedKernel,
    kernel_costs,
    masked_kernels,
    project_to_budget,
    pruned_kernels,
    pruning_spec,
    rate_table,
    set_stage,
)
from harp_tf.layers.prune import describe, prune, strip
from harp_tf.layers.pruned import PrunedLayer, shared_kernels
from harp_tf.layers.registry import kernels_of, pruned_class, register_kernels

__all__ = [
    "Kernel",
    "PrunedKernel",
    "PrunedLayer",
    "describe",
    "kernel_costs",
    "kernel_nonzeros",
    "kernels_of",
    "masked_kernels",
    "project_to_budget",
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
