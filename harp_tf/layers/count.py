"""Counting the weights of prunable kernels, in plain and in pruned models."""

import keras
import numpy as np

from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import walk
from harp_tf.layers.registry import kernels_of


def kernel_nonzeros(model: keras.Model) -> dict[str, tuple[int, int]]:
    """Weights and non-zero weights of every kernel that can be pruned, in the order of the network.

    Args:
        model: a plain Keras model, or one made by `harp_tf.prune`, whose removed weights count as zeros.

    Returns:
        (number of weights, number of them that are not 0) by path, e.g. "conv1/kernel".
    """
    counts = {}
    for path, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            arrays = list(zip(layer.kernels, layer.masked_kernels().values(), strict=True))
        else:
            arrays = [(kernel, getattr(layer, kernel.name)) for kernel in kernels_of(type(layer))]
        for kernel, values in arrays:
            values = keras.ops.convert_to_numpy(values)
            counts[f"{path}/{kernel.name}"] = (int(values.size), int(np.count_nonzero(values)))
    return counts
