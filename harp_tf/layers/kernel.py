"""What is known of a prunable kernel."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One prunable kernel of a layer class.

    Attributes:
        name: attribute of the layer that holds the kernel variable.
        output_axes: axes of the kernel that count outputs; all others are inputs, receptive field included. A
            function of the built layer where they differ from layer to layer.
        input_axis: axis of the kernel along the last axis of the layer's input, or None. Only layers that state it
            can be pruned by channels.
    """

    name: str = "kernel"
    output_axes: tuple[int, ...] | Callable[[Any], tuple[int, ...]] = (-1,)
    input_axis: int | None = None

    def of(self, layer: Any) -> "Kernel":
        """The same kernel with the output axes that it has in a given layer."""
        return dataclasses.replace(self, output_axes=self.output_axes(layer)) if callable(self.output_axes) else self

    @property
    def rides(self) -> bool:
        """Whether each input channel has outputs of its own, as in a depthwise convolution."""
        assert not callable(self.output_axes), "take the kernel `of` a layer"
        return self.input_axis is not None and self.input_axis in self.output_axes

    def fan_in(self, shape: tuple[int, ...]) -> int:
        """Number of weights that feed one output, for a kernel of this shape."""
        assert not callable(self.output_axes), "take the kernel `of` a layer"
        outputs = {axis % len(shape) for axis in self.output_axes}
        return math.prod(length for axis, length in enumerate(shape) if axis not in outputs)


def einsum_output_axes(layer: Any) -> tuple[int, ...]:
    """The axes of the kernel of a keras.layers.EinsumDense that its equation carries into the output."""
    inputs, output = layer.equation.split("->")
    kernel = inputs.split(",")[1]
    return tuple(axis for axis, letter in enumerate(kernel) if letter in output)
