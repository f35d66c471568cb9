"""Reading the pruned kernels of a model."""

import dataclasses
import math
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import walk
from harp_tf.layers.scores import Scores
from harp_tf.types import HarpError, PruningSpec


@dataclasses.dataclass(frozen=True)
class PrunedKernel:
    """What has scores and a rate of its own: one kernel of a model, or one channel space.

    Attributes:
        path: e.g. "block1/conv1/kernel" or "block1/conv1/inputs".
        layer: the pruned layer; of a space the first one that reads it.
        variable: the (first) kernel of that layer.
        scores: its scores and rate.
        copies: those of the other layers that read the space. They follow: see `follow`.
    """

    path: str
    layer: PrunedLayer
    variable: keras.Variable
    scores: Scores
    copies: list[Scores] = dataclasses.field(default_factory=list)

    def follow(self) -> None:
        """Gives the copies the values of `scores`; call it whenever these have changed."""
        for copy in self.copies:
            copy.scores.assign(self.scores.scores)
            copy.logit.assign(self.scores.logit)


def pruned_kernels(model: keras.Model) -> list[PrunedKernel]:
    """All pruned kernels or channel spaces of a model, in the order of the network; empty for a dense model."""
    found: dict[str, PrunedKernel] = {}
    for path, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            variables = dict(zip((kernel.name for kernel in layer.kernels), layer.kernel_variables(), strict=True))
            for name, scores in layer.mask_source.scores.items():
                unit = layer.mask_source.path(path, name)
                if unit in found:
                    found[unit].copies.append(scores)
                else:
                    variable = variables.get(name, next(iter(variables.values())))
                    found[unit] = PrunedKernel(unit, layer, variable, scores)
    return list(found.values())


def pruning_spec(model: keras.Model) -> PruningSpec:
    """The spec that the pruned layers of a model share.

    Raises:
        HarpError: if the model has no pruned layer.
    """
    for _, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            return layer.pruning
    raise HarpError(
        f"Model {model.name!r} has no pruned layers. Wrap it first: harp_tf.prune(model, target_sparsity=...)."
    )


def masked_kernels(model: keras.Model) -> dict[int, tf.Tensor]:
    """Selects the masks of a whole model once and returns the masked kernels for `shared_kernels`."""
    kernels: dict[int, tf.Tensor] = {}
    spaces: dict[str, tf.Tensor] = {}
    for _, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            # The first reader of a channel space selects its mask, so that the gradients of all reach its scores.
            kernels.update(layer.masked_kernels(spaces))
    return kernels


def magnitudes(model: keras.Model) -> dict[str, np.ndarray]:
    """By path of what has a rate, the material of its scores: the weights of a kernel, or one number per channel.

    That is the L1 norm of the weights that read the channel, relative to the largest of the space, and the mean of
    that over all layers that read the space.
    """
    found: dict[str, list[np.ndarray]] = {}
    for path, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            for name, values in layer.mask_source.magnitudes().items():
                found.setdefault(layer.mask_source.path(path, name), []).append(values)
    return {path: np.mean(values, axis=0) for path, values in found.items()}


def kernel_sizes(model: keras.Model) -> dict[str, int]:
    """Number of weights of the kernels of all pruned layers, by path."""
    return {
        f"{path}/{kernel.name}": math.prod(variable.shape)
        for path, layer in walk(model)
        if isinstance(layer, PrunedLayer)
        for kernel, variable in zip(layer.kernels, layer.kernel_variables(), strict=True)
    }


def divide_costs(model: keras.Model, costs: Mapping[str, int]) -> tuple[list[int], int]:
    """How the costs of the kernels of a pruned model divide among what has a rate.

    Args:
        model: a model made by `harp_tf.prune`.
        costs: what each kernel costs, by path.

    Returns:
        One cost per kernel or channel space, in the order of `pruned_kernels`, and the cost of pruned layers that no
        rate decides on.
    """
    units, rest = {kernel.path: 0 for kernel in pruned_kernels(model)}, 0
    for path, layer in walk(model):
        for kernel in layer.kernels if isinstance(layer, PrunedLayer) else ():
            cost = costs[f"{path}/{kernel.name}"]
            divided = layer.mask_source.costs(kernel.name, cost)
            rest += cost - sum(divided.values())
            for name, part in divided.items():
                units[layer.mask_source.path(path, name)] += part
    return list(units.values()), rest


def rate_table(model: keras.Model) -> dict[str, dict[str, float | int]]:
    """What is kept per pruned kernel or channel space, in the order of the network.

    Returns:
        {"weights": n, "kept": k, "rate": a} by path. The weights of a channel space are those of all kernels that read
        it; "channels" and "kept_channels" count the channels.
    """
    sizes, _ = divide_costs(model, kernel_sizes(model))
    return {
        k.path: {
            "weights": size,
            "kept": size // k.scores.size * k.scores.kept(),
            "rate": float(k.scores.rate()),
            **k.scores.counts(),
        }
        for k, size in zip(pruned_kernels(model), sizes, strict=True)
    }
