"""What is known of the channels of a tensor, whatever the model is given."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    """The known channels of one tensor; the channel axis is the last.

    Attributes:
        coefficients: float64 `[channels]`. NaN where a channel depends on the input. A known channel is its coefficient
            times a pattern over the positions that all channels of the tensor share.
        uniform: whether that pattern is 1 everywhere, which makes known channels constants. Zero padding around
            constants leaves a pattern with a border of zeros; patterns are never negative.
    """

    coefficients: np.ndarray
    uniform: bool = True

    @property
    def known(self) -> np.ndarray:
        """bool `[channels]`: which channels have a coefficient."""
        return ~np.isnan(self.coefficients)

    @property
    def nonzero(self) -> np.ndarray:
        """bool `[channels]`: which channels are known not to be zero everywhere."""
        return self.known & (self.coefficients != 0)

    @property
    def constants(self) -> np.ndarray:
        """float64 `[channels]`: the value of a channel that is the same everywhere, NaN for all others."""
        if self.uniform:
            return self.coefficients
        return np.where(self.coefficients == 0, 0.0, np.nan)


def unknown(channels: int) -> Value:
    """A tensor of which nothing is known."""
    return Value(np.full(channels, np.nan))
