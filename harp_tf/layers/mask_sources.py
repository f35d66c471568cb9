"""Where the masks of a pruned layer's kernels come from: scores of its weights, or of the channels that it reads."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from harp_tf.layers.kernel import Kernel
from harp_tf.layers.part import Part
from harp_tf.layers.scores import ChannelScores, KernelScores, Scores

Kernels = Mapping[str, tuple[Kernel, keras.Variable]]
"""What is known of the kernels of a layer, and their variables, by name."""

Bounds = Mapping[str, Sequence[float]]
"""(smallest, largest) rate by name of a kernel, or of a channel space."""


class MaskSource(Protocol):
    """What a pruned layer asks for the masks of its kernels.

    Attributes:
        scores: scores and rates by name of what they decide on: a kernel of the layer, or a channel space.
    """

    scores: dict[str, Scores]

    def path(self, layer: str, name: str) -> str:
        """The path in the model of what the scores `name` of the layer at path `layer` decide on.

        Layers whose scores have the same path share what it names.
        """

    def costs(self, kernel: str, cost: int) -> dict[str, int]:
        """How the cost of a kernel, given its name, divides among the scores; the rest can never be removed."""

    def magnitudes(self) -> dict[str, np.ndarray]:
        """By name of the scores, what their initial values are made of: weights, or norms, one per unit."""

    def masks(self, chosen: dict[str, tf.Tensor]) -> list[tf.Tensor | None]:
        """The masks with which the kernels are multiplied when the layer runs.

        Args:
            chosen: masks of channel spaces by name, selected for layers before; takes up those that are selected here.

        Returns:
            Per kernel a float32 tensor of zeros and ones that broadcasts to it, None if the kernel runs as it is.
        """

    def final_masks(self) -> list[tf.Tensor | None]:
        """The masks of what remains of the kernels after `strip`, likewise."""

    def input_mask(self) -> np.ndarray | None:
        """Zeros and ones along the input axis, float32 [channels], if channels are masked.

        A single one where no channel can be removed.
        """


class WeightMasks:
    """Masks of single weights: every kernel has scores of its own shape.

    Args:
        kernels: the kernels of the layer.
        default: (smallest, largest) rate.
        bounds: those that differ, by name of the kernel.
    """

    def __init__(self, kernels: Kernels, default: Sequence[float], bounds: Bounds):
        self.scores: dict[str, Scores] = {}
        self._variables = {name: variable for name, (_, variable) in kernels.items()}
        for name, (kernel, variable) in kernels.items():
            shape, limits = tuple(variable.shape), bounds.get(name, default)
            self.scores[name] = KernelScores(shape, kernel.fan_in(shape), *limits, name=f"{name}_scores")

    def path(self, layer: str, name: str) -> str:
        """See `MaskSource`."""
        return f"{layer}/{name}"

    def costs(self, kernel: str, cost: int) -> dict[str, int]:
        """See `MaskSource`."""
        return {kernel: cost}

    def magnitudes(self) -> dict[str, np.ndarray]:
        """See `MaskSource`: the weights."""
        return {name: keras.ops.convert_to_numpy(variable) for name, variable in self._variables.items()}

    def masks(self, chosen: dict[str, tf.Tensor]) -> list[tf.Tensor | None]:
        """See `MaskSource`."""
        return [scores.mask() for scores in self.scores.values()]

    def final_masks(self) -> list[tf.Tensor | None]:
        """See `MaskSource`."""
        return self.masks({})

    def input_mask(self) -> np.ndarray | None:
        """See `MaskSource`."""
        return None


class ChannelMasks:
    """Masks of the input channels of a layer, the same for all outputs.

    A depthwise kernel runs unmasked: no layer reads the channels that it would remove, and as long as they are
    computed, their scores learn what they are worth.

    Args:
        kernels: the kernels of the layer.
        reads: the parts of its input axis.
        default: (smallest, largest) rate.
        bounds: those that differ, by name of the space.
        multiple: the final counts are multiples of it where they can be.
    """

    def __init__(
        self, kernels: Kernels, reads: Sequence[Part], default: Sequence[float], bounds: Bounds, multiple: int
    ):
        self._kernels = list(kernels.values())
        self._reads = list(reads)
        self.scores: dict[str, Scores] = {}
        for part in reads:
            for space, channels in part.spaces:
                if space is not None and space not in self.scores:
                    low, high = bounds.get(space, default)
                    name = f"inputs{len(self.scores)}"
                    self.scores[space] = ChannelScores(channels, low, high, multiple, name=name)

    def path(self, layer: str, name: str) -> str:
        """See `MaskSource`."""
        return name

    def costs(self, kernel: str, cost: int) -> dict[str, int]:
        """See `MaskSource`: all channels along the input axis cost the same."""
        found = dict.fromkeys(self.scores, 0)
        length = sum(part.channels for part in self._reads)
        for part in self._reads:
            for space, channels in part.spaces:
                if space is not None:
                    found[space] += cost // length * part.repeat * channels
        return found

    def magnitudes(self) -> dict[str, np.ndarray]:
        """See `MaskSource`: the L1 norm of what reads each channel, divided by the largest of the space."""
        if not self.scores:
            return {}
        found = {space: np.zeros(scores.shape) for space, scores in self.scores.items()}
        for kernel, variable in [pair for pair in self._kernels if not pair[0].rides] or self._kernels:
            weights = np.abs(keras.ops.convert_to_numpy(variable).astype(np.float64))
            axes = tuple(a for a in range(weights.ndim) if a != kernel.input_axis % weights.ndim)
            row = weights.sum(axes).reshape(sum(part.channels for part in self._reads), -1).sum(1)
            for part in self._reads:
                for _ in range(part.repeat):
                    for space, channels in part.spaces:
                        if space is not None:
                            found[space] += row[:channels]
                        row = row[channels:]
        return {space: norms / max(norms.max(), np.finfo(np.float32).tiny) for space, norms in found.items()}

    def masks(self, chosen: dict[str, tf.Tensor]) -> list[tf.Tensor | None]:
        """See `MaskSource`."""
        axis = self._axis(chosen)
        return [None if kernel.rides else _along(axis, kernel, variable) for kernel, variable in self._kernels]

    def final_masks(self) -> list[tf.Tensor | None]:
        """See `MaskSource`."""
        axis = self._axis({})
        return [_along(axis, kernel, variable) for kernel, variable in self._kernels]

    def input_mask(self) -> np.ndarray | None:
        """See `MaskSource`."""
        axis = self._axis({})
        return np.ones(1, np.float32) if axis is None else axis.numpy()

    def _axis(self, chosen: dict[str, tf.Tensor]) -> tf.Tensor | None:
        """The mask along the input axis, float32 [channels]."""
        if not self.scores:
            return None
        for space, scores in self.scores.items():
            if space not in chosen:
                chosen[space] = scores.mask()
        parts = []
        for part in self._reads:
            row = [tf.ones([size]) if space is None else chosen[space] for space, size in part.spaces]
            parts.append(tf.tile(tf.concat(row, axis=0), [part.repeat]))
        return tf.concat(parts, axis=0)


def _along(axis: tf.Tensor | None, kernel: Kernel, variable: keras.Variable) -> tf.Tensor | None:
    """A mask along the input axis of a kernel, shaped to broadcast to it."""
    if axis is None or kernel.input_axis is None:
        return None
    shape = [1] * len(variable.shape)
    shape[kernel.input_axis] = variable.shape[kernel.input_axis]
    # Behind a depthwise kernel that makes several outputs of a channel, these lie side by side.
    return tf.reshape(tf.repeat(axis, shape[kernel.input_axis] // axis.shape[0]), shape)
