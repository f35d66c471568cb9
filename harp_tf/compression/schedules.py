"""Schedules: the step-wise regularisation factor and the learning rate."""

import math

import keras
import tensorflow as tf

from harp_tf.types import HarpError


def stepwise_gamma(initial: float, epoch: int, frozen: float | None) -> float:
    """The factor of L_hw in an epoch: (e + 1) * gamma_0 until it is frozen.

    Args:
        initial: gamma_0.
        epoch: the epoch e, counted from 0.
        frozen: the value at which gamma was frozen, or None.

    Returns:
        gamma for this epoch.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023, section 3.3.
    """
    return frozen if frozen is not None else (epoch + 1) * initial


def reaches_target(hw_loss: float) -> bool:
    """Whether L_hw at the end of an epoch rounds to 0 at four decimals, which freezes gamma for good."""
    return round(float(hw_loss), 4) == 0.0


@keras.saving.register_keras_serializable("harp_tf")
class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate per optimiser step, with linear warm-up.

    The first step after the warm-up runs at `initial`; with "cosine" the last of `total_steps` runs at `final`
    exactly, and no two steps after the warm-up share a rate. "step" multiplies by 0.1 after one half and three
    quarters of the steps. Warm-up rises linearly and reaches `initial` at its end.

    Args:
        initial: learning rate after the warm-up.
        total_steps: number of optimiser steps of the whole stage.
        kind: "cosine", "step" or "constant".
        warmup_steps: number of steps of linear rise, at most `total_steps`.
        final: learning rate of the last cosine step.

    Raises:
        HarpError: if a value is out of its range.
    """

    KINDS = ("cosine", "step", "constant")

    def __init__(
        self,
        initial: float,
        total_steps: int,
        kind: str = "cosine",
        warmup_steps: int = 0,
        final: float = 0.0,
    ):
        if kind not in self.KINDS:
            raise HarpError(f"The learning-rate schedule must be one of {', '.join(self.KINDS)}, received {kind!r}.")
        if total_steps < 1 or not 0 <= warmup_steps <= total_steps:
            raise HarpError(
                f"A schedule needs total_steps >= 1 and 0 <= warmup_steps <= total_steps, received "
                f"total_steps={total_steps}, warmup_steps={warmup_steps}."
            )
        if not (0 < initial < math.inf and 0 <= final < math.inf):
            raise HarpError(
                f"A schedule needs finite learning rates, initial > 0 and final >= 0, received initial={initial}, "
                f"final={final}."
            )
        self.initial = float(initial)
        self.total_steps = int(total_steps)
        self.kind = kind
        self.warmup_steps = int(warmup_steps)
        self.final = float(final)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.minimum(tf.cast(step, tf.float32), float(self.total_steps - 1))
        rising = self.initial * (step + 1.0) / max(self.warmup_steps, 1)
        done = (step - self.warmup_steps) / max(self.total_steps - 1 - self.warmup_steps, 1)
        if self.kind == "cosine":
            falling = self.final + (self.initial - self.final) * 0.5 * (1.0 + tf.cos(math.pi * done))
        elif self.kind == "step":
            drops = tf.cast(2 * step >= self.total_steps, tf.float32)
            drops += tf.cast(4 * step >= 3 * self.total_steps, tf.float32)
            falling = self.initial * tf.pow(0.1, drops)
        else:
            falling = tf.fill(tf.shape(step), self.initial)
        return tf.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict:
        return {
            "initial": self.initial,
            "total_steps": self.total_steps,
            "kind": self.kind,
            "warmup_steps": self.warmup_steps,
            "final": self.final,
        }
