"""Counting the weights of prunable kernels, in plain and in pruned models."""

import math
from collections.abc import Iterator

import keras
import numpy as np

from harp_tf.layers.kernel import Kernel
from harp_tf.layers.policy import Skip, leave_alone
from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import walk
from harp_tf.layers.registry import kernels_of


def prunable_kernels(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer, Kernel]]:
    """Yields (path, layer, kernel) of every kernel that can be pruned or is, in the order of the network."""
    for path, layer in walk(model):
        for kernel in layer.kernels if isinstance(layer, PrunedLayer) else kernels_of(type(layer)):
            yield f"{path}/{kernel.name}", layer, kernel


def prunable_weights(model: keras.Model, skip: Skip = ()) -> int:
    """Number of weights of a plain Keras model that `prune` would put under masks.

    Args:
        model: a built Keras model.
        skip: what `prune` is to leave unpruned. Frozen layers are left alone too.
    """
    leave = leave_alone(skip, model)
    return sum(
        math.prod(getattr(layer, kernel.name).shape)
        for path, layer, kernel in prunable_kernels(model)
        if layer.trainable and not leave(path.rpartition("/")[0], layer)
    )


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
            arrays = list(zip(layer.kernels, layer.remaining_kernels().values(), strict=True))
        else:
            arrays = [(kernel, getattr(layer, kernel.name)) for kernel in kernels_of(type(layer))]
        for kernel, values in arrays:
            values = keras.ops.convert_to_numpy(values)
            counts[f"{path}/{kernel.name}"] = (int(values.size), int(np.count_nonzero(values)))
    return counts
