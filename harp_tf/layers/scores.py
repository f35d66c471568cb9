"""The trainable part of what is pruned, a kernel or a row of channels: importance scores and a rate."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from harp_tf.compression import (
    float32_at_most,
    keep_channels,
    keep_count,
    logit_bounds,
    logit_for_channels,
    logit_for_count,
    logit_from_rate,
    rate_from_logit,
    straight_through_mask,
)


@keras.saving.register_keras_serializable("harp_tf")
class LogitRange(keras.constraints.Constraint):
    """Keeps a trained rate logit where its sigmoid still has a slope, so that the rate can always return.

    Args:
        low: smallest logit.
        high: largest logit.
    """

    def __init__(self, low: float, high: float):
        self.low = low
        self.high = high

    def __call__(self, logit: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.convert_to_tensor(logit), self.low, self.high)

    def get_config(self) -> dict:
        return {"low": self.low, "high": self.high}


class Scores(keras.layers.Layer):
    """Scores S and rate logit r of what is kept and removed unit by unit; a child of the pruned layer.

    A layer of its own, because Dense and the convolutions save a fixed list of variables and would lose more.

    Args:
        shape: shape of the scores, one per unit.
        minimum_rate: a_min, the smallest rate.
        maximum_rate: a_max, the largest rate; rounded down to a float32 number.
        **kwargs: passed to keras.layers.Layer.
    """

    _count: Callable[[tf.Tensor, int], tf.Tensor]
    """The rounding rule from a rate and a size to a number of units."""
    _logit_for: Callable[[int, int, float, float], float]
    """Its inverse, from a count, a size and the bounds of the rate to a logit."""
    rate_gradient: str = "sum"
    """How the rate learns from the loss, see `compression.straight_through_mask`; the pruned layer's spec says it."""
    multiple: int = 1
    """The number of which the final count is a multiple where it can be."""

    def __init__(self, shape: tuple[int, ...], minimum_rate: float, maximum_rate: float = 1.0, **kwargs):
        # Masks decide on exact counts: scores and rates stay float32 under mixed precision.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.shape = tuple(shape)
        self.maximum_rate = float32_at_most(maximum_rate)
        self.minimum_rate = min(minimum_rate, self.maximum_rate)
        self.scores = self.add_weight(name="scores", shape=self.shape, initializer="zeros")
        self.logit = self.add_weight(
            name="rate_logit",
            shape=(),
            initializer="zeros",
            constraint=LogitRange(*logit_bounds(self.minimum_rate, self.maximum_rate)),
        )
        self.built = True

    def get_config(self) -> dict:
        own = ("shape", "minimum_rate", "maximum_rate")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    @property
    def size(self) -> int:
        """Number of units."""
        return int(np.prod(self.shape))

    def set_rate(self, rate: float) -> None:
        """Sets the logit so that the rate becomes `rate` (clipped away from the floor and from the ceiling)."""
        self.logit.assign(logit_from_rate(rate, self.minimum_rate, self.maximum_rate))

    def set_count(self, count: int) -> None:
        """Sets the logit so that exactly `count` units are kept (see `compression.logit_for_count`)."""
        self.logit.assign(self._logit_for(count, self.size, self.minimum_rate, self.maximum_rate))

    def count(self, rate: float) -> int:
        """The number of units that a rate keeps, which may be no float32 number."""
        return int(self._count(rate, self.size))

    def least(self) -> int:
        """The smallest number of units that the mask can keep, with the rate at its floor."""
        lowest = tf.constant(logit_bounds(self.minimum_rate, self.maximum_rate)[0])
        return int(self._count(self._rate_at(lowest), self.size))

    def most(self) -> int:
        """The largest number of units that the mask can keep, with the rate at its ceiling."""
        return int(self._count(tf.constant(self.maximum_rate), self.size))

    def rate(self) -> tf.Tensor:
        """The rate a in [a_min, a_max], a float32 scalar, differentiable with respect to the logit."""
        return self._rate_at(tf.convert_to_tensor(self.logit))

    def _rate_at(self, logit: tf.Tensor) -> tf.Tensor:
        return rate_from_logit(logit, self.minimum_rate, self.maximum_rate)

    def kept(self) -> int:
        """The number of units that the mask keeps at the present rate."""
        return int(self._count(self.rate(), self.size))

    def counts(self) -> dict[str, int]:
        """What a table says of the units, if they are no weights."""
        return {}

    def mask(self) -> tf.Tensor:
        """The mask M, a float32 tensor of zeros and ones with gradients to scores and logit."""
        return straight_through_mask(tf.convert_to_tensor(self.scores), self.rate(), self._count, self.rate_gradient)


@keras.saving.register_keras_serializable("harp_tf")
class KernelScores(Scores):
    """Scores and rate of one kernel, whose units are its weights.

    Args:
        shape: shape of the kernel.
        fan_in: number of weights that feed one output, for the initial scores.
        minimum_rate: a_min, the smallest rate.
        maximum_rate: a_max, the largest rate; rounded down to a float32 number.
        **kwargs: passed to keras.layers.Layer.
    """

    _count = staticmethod(keep_count)
    _logit_for = staticmethod(logit_for_count)

    def __init__(self, shape: tuple[int, ...], fan_in: int, minimum_rate: float, maximum_rate: float = 1.0, **kwargs):
        super().__init__(shape, minimum_rate, maximum_rate, **kwargs)
        self.fan_in = fan_in

    def get_config(self) -> dict:
        return {**super().get_config(), "fan_in": self.fan_in}

    def initialise(self, kernel: np.ndarray, rate: float) -> None:
        """Sets S = sqrt(6 / fan_in) * kernel / max|kernel| and the logit of `rate`."""
        largest = float(np.max(np.abs(kernel)))
        scale = np.sqrt(6.0 / self.fan_in) / largest if largest > 0 else 0.0
        self.scores.assign(scale * kernel)
        self.set_rate(rate)


@keras.saving.register_keras_serializable("harp_tf")
class ChannelScores(Scores):
    """Scores and rate of a channel space, whose units are its channels.

    Every layer that reads the space has a copy; those of the first reader are the ones that are trained.

    Args:
        channels: number of channels.
        minimum_rate: a_min, the smallest rate.
        maximum_rate: a_max, the largest rate; rounded down to a float32 number.
        multiple: the final count is a multiple of it where there are twice as many channels.
        **kwargs: passed to keras.layers.Layer.
    """

    _count = staticmethod(keep_channels)
    _logit_for = staticmethod(logit_for_channels)

    def __init__(self, channels: int, minimum_rate: float, maximum_rate: float = 1.0, multiple: int = 1, **kwargs):
        super().__init__((channels,), minimum_rate, maximum_rate, **kwargs)
        self.multiple = multiple if channels >= 2 * multiple else 1

    def get_config(self) -> dict:
        config = super().get_config()
        (channels,) = config.pop("shape")
        return {**config, "channels": channels, "multiple": self.multiple}

    def initialise(self, norms: np.ndarray, rate: float) -> None:
        """Sets the scores to `norms`, one per channel, and the logit of `rate`."""
        self.scores.assign(norms)
        self.set_rate(rate)

    def counts(self) -> dict[str, int]:
        """See `Scores`."""
        return {"channels": self.size, "kept_channels": self.kept()}
