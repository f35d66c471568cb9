"""What is known of a prunable kernel."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One prunable kernel of a layer class.

    Attributes:
        name: attribute of the layer that holds the kernel variable.
        output_axes: axes of the kernel that count outputs; all others are inputs, receptive field included.
    """

    name: str = "kernel"
    output_axes: tuple[int, ...] = (-1,)

    def fan_in(self, shape: tuple[int, ...]) -> int:
        """Number of weights that feed one output, for a kernel of this shape."""
        outputs = {axis % len(shape) for axis in self.output_axes}
        return math.prod(length for axis, length in enumerate(shape) if axis not in outputs)
