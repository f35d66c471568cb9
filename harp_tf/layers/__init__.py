"""Pruned Keras layers, and the way from a dense model to a pruned one and back."""

# Serialised models name these classes, so they exist as soon as harp_tf is imported.
import keras as _keras

from harp_tf.layers.count import kernel_nonzeros
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
from harp_tf.layers.pruned import PrunedLayer, pruned_class, shared_kernels
from harp_tf.layers.registry import Kernel, kernels_of, register_kernels

for _name in dir(_keras.layers):
    _candidate = getattr(_keras.layers, _name)
    if isinstance(_candidate, type) and kernels_of(_candidate):
        pruned_class(_candidate)

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
