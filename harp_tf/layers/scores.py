"""The trainable part of a pruned kernel: importance scores and a rate."""

import keras
import numpy as np
import tensorflow as tf

from harp_tf.compression import (
    keep_count,
    logit_bounds,
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


@keras.saving.register_keras_serializable("harp_tf")
class KernelScores(keras.layers.Layer):
    """Scores S and rate logit r of one kernel; a child of the pruned layer.

    A layer of its own, because Dense and the convolutions save a fixed list of variables and would lose more.

    Args:
        shape: shape of the kernel.
        fan_in: number of weights that feed one output, for the initial scores.
        minimum_rate: a_min, the smallest rate.
        **kwargs: passed to keras.layers.Layer.
    """

    def __init__(self, shape: tuple[int, ...], fan_in: int, minimum_rate: float, **kwargs):
        # Masks decide on exact counts: scores and rates stay float32 under mixed precision.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.shape = tuple(shape)
        self.fan_in = fan_in
        self.minimum_rate = minimum_rate
        self.scores = self.add_weight(name="scores", shape=self.shape, initializer="zeros")
        self.logit = self.add_weight(
            name="rate_logit",
            shape=(),
            initializer="zeros",
            constraint=LogitRange(*logit_bounds(minimum_rate)),
        )
        self.built = True

    def get_config(self) -> dict:
        own = {"shape": self.shape, "fan_in": self.fan_in, "minimum_rate": self.minimum_rate}
        return {**super().get_config(), **own}

    @property
    def size(self) -> int:
        """Number of weights of the kernel."""
        return int(np.prod(self.shape))

    def initialise(self, kernel: np.ndarray, rate: float) -> None:
        """Sets S = sqrt(6 / fan_in) * kernel / max|kernel| and the logit of `rate`."""
        largest = float(np.max(np.abs(kernel)))
        scale = np.sqrt(6.0 / self.fan_in) / largest if largest > 0 else 0.0
        self.scores.assign(scale * kernel)
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Sets the logit so that the rate becomes `rate` (clipped away from the floor and from 1)."""
        self.logit.assign(logit_from_rate(rate, self.minimum_rate))

    def set_count(self, count: int) -> None:
        """Sets the logit so that exactly `count` weights are kept (see `compression.logit_for_count`)."""
        self.logit.assign(logit_for_count(count, self.size, self.minimum_rate))

    def least(self) -> int:
        """The smallest number of weights that the mask can keep, with the rate at its floor."""
        lowest = tf.constant(logit_bounds(self.minimum_rate)[0])
        return int(keep_count(rate_from_logit(lowest, self.minimum_rate), self.size))

    def rate(self) -> tf.Tensor:
        """The rate a in [a_min, 1], a float32 scalar, differentiable with respect to the logit."""
        return rate_from_logit(tf.convert_to_tensor(self.logit), self.minimum_rate)

    def kept(self) -> int:
        """The number of weights that the mask keeps at the present rate."""
        return int(keep_count(self.rate(), self.size))

    def mask(self) -> tf.Tensor:
        """The mask M, a float32 tensor of zeros and ones with HARP's gradients to scores and logit."""
        return straight_through_mask(tf.convert_to_tensor(self.scores), self.rate())
