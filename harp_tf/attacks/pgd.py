"""Projected gradient descent and its one-step form."""

import dataclasses

import tensorflow as tf

from harp_tf.attacks import draws
from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.objectives import margin, value_and_gradient
from harp_tf.losses.terms import cross_entropy, kl_from_logits
from harp_tf.types import HarpError, is_count, require_choice

OBJECTIVES = ("cross_entropy", "margin", "kl")
STARTS = ("uniform", "normal", "clean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Steepest ascent on an objective, projected after every step.

    Attributes:
        step_size: eta, length of a step in the attack's norm. Default: eps / 4.
        steps: T, number of gradient steps, >= 1.
        objective: "cross_entropy", "margin" (the largest other logit minus that of the label), or "kl" between the
            clean and the adversarial prediction.
        start: "uniform" in the ball, "normal" (clean + 0.001 * Gaussian noise, as TRADES does) or "clean".
        restarts: number of tries, each from another random start, >= 1.

    Reference:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
    """

    step_size: float | None = None
    steps: int = 10
    objective: str = "cross_entropy"
    start: str = "uniform"
    restarts: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.step_size is None:
            object.__setattr__(self, "step_size", self.eps / 4)
        if not is_count(self.steps) or not 0.0 <= self.step_size < float("inf"):
            raise HarpError(
                f"{type(self).__name__} needs a whole number of steps >= 1 and a step_size >= 0 in units of [0, 1] "
                f"pixels, received steps={self.steps!r} and step_size={self.step_size!r}."
            )
        require_choice("objective", self.objective, OBJECTIVES)
        require_choice("start", self.start, STARTS)
        # From the clean image all tries are the same.
        if not is_count(self.restarts) or (self.start == "clean" and self.restarts > 1):
            raise HarpError(
                f"{type(self).__name__} needs a whole number of restarts >= 1, and just one from the clean image, "
                f"received restarts={self.restarts!r} and start={self.start!r}."
            )

    def tries(self, num_classes: int) -> int:
        return self.restarts

    @property
    def _single(self) -> bool:
        return self.restarts == 1

    def perturb(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        if self.objective == "kl":
            clean = tf.stop_gradient(logits(images))

        def objective(scores: tf.Tensor) -> tf.Tensor:
            if self.objective == "kl":
                return kl_from_logits(clean, scores)
            return (margin if self.objective == "margin" else cross_entropy)(scores, labels)

        def body(step: tf.Tensor, candidates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            gradient = value_and_gradient(logits, objective, candidates, type(self).__name__)[2]
            return step + 1, self.project(candidates + self.step_size * self.ball.step(gradient), images)

        start = self.project(self._start(images, seed), images)
        return tf.while_loop(
            lambda step, _: step < self.steps, body, (tf.constant(0), start), maximum_iterations=self.steps
        )[1]

    def _start(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if self.start == "uniform":
            return images + self.ball.random(images, self.eps, seed)
        if self.start == "normal":
            return images + 0.001 * draws.normal(tf.shape(images), seed)
        return images


def FGSM(*, eps: float, norm: str = "linf") -> PGD:
    """The fast gradient (sign) method: one step of length eps from the clean image.

    Args:
        eps: radius of the ball, in units of pixels scaled to [0, 1].
        norm: "linf" or "l2".

    Returns:
        The attack.

    Reference:
        Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015.
    """
    return PGD(eps=eps, norm=norm, step_size=eps, steps=1, start="clean")
