"""What every strategy reads: the prunable kernels of a network."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class KernelInfo:
    """A prunable kernel as a strategy sees it.

    Attributes:
        path: where the kernel lives, e.g. "conv1/kernel".
        values: its weights, a float32 array.
    """

    path: str
    values: np.ndarray

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(self.values.size)


Strategy = Callable[[Sequence[KernelInfo], float], dict[str, float]]
"""(kernels, overall rate) -> rate of each kernel by path."""
