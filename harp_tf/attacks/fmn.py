"""FMN: gradient steps inside a ball whose radius follows the decision boundary."""

import dataclasses
import math

import tensorflow as tf

from harp_tf.attacks.base import Logits
from harp_tf.attacks.geometry import L2, select
from harp_tf.attacks.minimum_norm import MinimumNorm
from harp_tf.attacks.objectives import margin, misclassified, value_and_gradient
from harp_tf.types import HarpError, is_count

_FINAL_SHARE = 0.01  # of the step size that is left at the end
_FINAL_GAMMA = 0.001  # relative precision of the radius at the end


@dataclasses.dataclass(frozen=True, kw_only=True)
class FMN(MinimumNorm):
    """The fast minimum-norm attack: one run gives the distances of all examples, and so the whole security curve.

    Each step raises the margin and projects onto a ball of the example's own radius, which shrinks while the example is
    adversarial and grows while it is not. Step size and the radius's rate of change fall along a cosine.

    Attributes:
        steps: number of gradient steps, >= 1.
        step_size: Euclidean length of the first step, in either norm, > 0. Default: 10 for "linf", 1 for "l2".
        gamma: by what share the radius changes at first, in (0, 1).

    Reference:
        Pintor et al., Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints, NeurIPS 2021.
    """

    steps: int = 100
    step_size: float | None = None
    gamma: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        if self.step_size is None:
            object.__setattr__(self, "step_size", 10.0 if self.norm == "linf" else 1.0)
        if not is_count(self.steps):
            raise HarpError(f"FMN needs a whole number of steps >= 1, received {self.steps!r}.")
        if not (0.0 < self.step_size < float("inf") and 0.0 < self.gamma < 1.0):
            raise HarpError(
                "FMN needs a step_size > 0 in units of [0, 1] pixels and gamma in (0, 1), received "
                f"step_size={self.step_size!r} and gamma={self.gamma!r}."
            )

    def _search(
        self,
        logits: Logits,
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor,
        number: int | tf.Tensor,
        enough: float,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        ones = [1] * (len(images.shape) - 1)
        farthest = self.ball.size(tf.maximum(images, 1.0 - images))  # no point of the box is farther

        def step(
            count: tf.Tensor, points: tf.Tensor, radius: tf.Tensor, best: tf.Tensor, distance: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            values, scores, gradient = value_and_gradient(
                logits, lambda z: margin(z, labels), points, type(self).__name__
            )
            change = points - images
            size = self.ball.size(change)
            adversarial = misclassified(scores, labels)
            nearer = adversarial & (size < distance)
            best, distance = select(nearer, points, best), tf.where(nearer, size, distance)

            gamma = self._cosine(count, self.gamma, min(_FINAL_GAMMA, self.gamma))
            # The steepest step of norm 1 climbs by the dual norm of the gradient: so far is the linearised boundary.
            slope = tf.reduce_sum(gradient * self.ball.step(gradient), axis=list(range(1, len(images.shape))))
            boundary = size + tf.abs(values) / tf.maximum(slope, 1e-30)
            # Before the first success beyond the linearised boundary: on it a linear network ties, and where the box
            # binds it is not far enough.
            outwards = (1.0 + gamma) * tf.where(distance < float("inf"), radius, tf.maximum(radius, boundary))
            radius = tf.where(adversarial, tf.minimum((1.0 - gamma) * radius, distance), outwards)
            radius = tf.minimum(radius, farthest)

            length = self.step_size * self._cosine(count, 1.0, _FINAL_SHARE)
            change = self.ball.project(change + length * L2().step(gradient), tf.reshape(radius, [-1, *ones]))
            return count + 1, tf.clip_by_value(images + change, 0.0, 1.0), radius, best, distance

        state = (tf.constant(0), images, tf.zeros_like(farthest), images, tf.fill(tf.shape(labels), float("inf")))
        *_, best, distance = tf.while_loop(
            lambda *state: tf.reduce_any(state[-1] > enough), step, state, maximum_iterations=self.steps
        )
        return best, distance

    def _cosine(self, count: tf.Tensor, first: float, last: float) -> tf.Tensor:
        """Falls from the first value towards the last."""
        share = tf.cast(count, tf.float32) / self.steps
        return last + 0.5 * (first - last) * (1.0 + tf.cos(math.pi * share))
