"""The iteration of Auto-PGD: steepest ascent with momentum that halves its own step size."""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.geometry import select
from harp_tf.attacks.objectives import Objective, misclassified, value_and_gradient
from harp_tf.types import HarpError, is_count

_MOMENTUM = 0.75


class _State(NamedTuple):
    """Where the attack stands after an iteration; per example, so of leading dimension n."""

    images: tf.Tensor
    previous: tf.Tensor
    gradient: tf.Tensor
    value: tf.Tensor
    step_size: tf.Tensor
    best_images: tf.Tensor
    best_gradient: tf.Tensor
    best_value: tf.Tensor
    rises: tf.Tensor  # iterations since the last check whose value exceeded the one before
    halved: tf.Tensor  # at the last check
    value_at_check: tf.Tensor  # the best one
    adversarial: tf.Tensor
    fooled: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoPGD(Attack):
    """What APGD and APGDTargeted share: the iteration and its settings.

    Attributes:
        steps: number of gradient steps, >= 1.
        rho: a step size is halved when no more than this share of the steps since the last check have raised the
            objective, in [0, 1].
        passes: over how many passes gradients are averaged, >= 1; more than 1 for networks that answer at random.
    """

    steps: int = 100
    rho: float = 0.75
    passes: int = 1

    def __post_init__(self):
        super().__post_init__()
        if not is_count(self.passes):
            raise HarpError(f"{type(self).__name__} needs a whole number of passes >= 1, received {self.passes!r}.")
        if not is_count(self.steps) or not 0.0 <= self.rho <= 1.0:
            raise HarpError(
                f"{type(self).__name__} needs a whole number of steps >= 1 and a share rho in [0, 1], received "
                f"steps={self.steps!r} and rho={self.rho!r}."
            )

    def perturb(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        start = images + self.ball.on_sphere(images, self.eps, seed)
        return self.run(logits, images, labels, start, number)[0]

    def run(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, start: tf.Tensor, number: int | tf.Tensor = 0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One try from a given starting point.

        Args:
            logits: the model, see `Attack.__call__`.
            images: float32 [n, ...] in [0, 1], the centres of the balls.
            labels: int32 [n], the true classes.
            start: float32 [n, ...], where to begin; projected first.
            number: of the try, in [0, tries).

        Returns:
            The last misclassified of all iterates, the start included, or else the one with the largest objective,
            float32 [n, ...]; and the largest objective over all iterates, float32 [n].
        """
        objective = self._objective(logits, images, labels, number)

        def one_pass(candidates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return value_and_gradient(logits, objective, candidates, type(self).__name__)

        def measure(candidates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            value, scores, gradient = one_pass(candidates)
            if self.passes == 1:
                return value, scores, gradient

            def add(number: tf.Tensor, _value: tf.Tensor, _scores: tf.Tensor, total: tf.Tensor) -> tuple:
                value, scores, gradient = one_pass(candidates)
                return number + 1, value, scores, total + gradient

            # Values and logits are those of the last pass, as in the official code.
            state = (tf.constant(1), value, scores, gradient)
            _, value, scores, total = tf.while_loop(
                lambda number, *_: number < self.passes, add, state, maximum_iterations=self.passes
            )
            return value, scores, total / self.passes

        periods = tf.constant(check_periods(self.steps))

        def iterate(step: tf.Tensor, state: _State) -> tuple[tf.Tensor, _State]:
            # The first step has no momentum.
            share = tf.where(step == 0, 1.0, _MOMENTUM)
            state = self._advance(state, images, labels, share, measure)
            period = tf.gather(periods, step)
            return step + 1, tf.cond(period > 0, lambda: self._check(state, period), lambda: state)

        begin = self._begin(self.project(start, images), labels, measure)
        state = tf.while_loop(
            lambda step, _: step < self.steps, iterate, (tf.constant(0), begin), maximum_iterations=self.steps
        )[1]
        return select(state.fooled, state.adversarial, state.best_images), state.best_value

    @abc.abstractmethod
    def _objective(self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, number: int | tf.Tensor) -> Objective:
        """What this try maximises."""

    def _begin(self, start: tf.Tensor, labels: tf.Tensor, measure: Callable) -> _State:
        value, scores, gradient = measure(start)
        ones = [1] * (len(start.shape) - 1)
        return _State(
            images=start,
            previous=start,
            gradient=gradient,
            # The official code compares the first step's value with this 0, not with the value at the start.
            value=tf.zeros_like(value),
            step_size=tf.fill(tf.concat([tf.shape(start)[:1], ones], 0), tf.constant(2.0 * self.eps)),
            best_images=start,
            best_gradient=gradient,
            best_value=value,
            rises=tf.zeros_like(value),
            halved=tf.ones_like(value, tf.bool),
            value_at_check=value,
            adversarial=start,
            fooled=misclassified(scores, labels),
        )

    def _advance(
        self, state: _State, images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor, measure: Callable
    ) -> _State:
        """One step, of which the momentum is a share of 1 - share, and one gradient."""
        here = state.images
        ahead = self.project(here + state.step_size * self.ball.step(state.gradient), images)
        moved = here + share * (ahead - here) + (1.0 - share) * (here - state.previous)
        candidates = self.project(moved, images)
        value, scores, gradient = measure(candidates)
        wrong = misclassified(scores, labels)
        better = value > state.best_value
        return state._replace(
            images=candidates,
            previous=here,
            gradient=gradient,
            value=value,
            best_images=select(better, candidates, state.best_images),
            best_gradient=select(better, gradient, state.best_gradient),
            best_value=tf.where(better, value, state.best_value),
            rises=state.rises + tf.cast(value > state.value, tf.float32),
            adversarial=select(wrong, candidates, state.adversarial),
            fooled=state.fooled | wrong,
        )

    def _check(self, state: _State, period: tf.Tensor) -> _State:
        """Halves the step size and goes back to the best point where the objective rose too seldom.

        That is in too few steps since the last check, or, unless it was halved then, nowhere above its best of then.
        """
        seldom = state.rises <= self.rho * tf.cast(period, tf.float32)
        halve = seldom | (~state.halved & (state.best_value <= state.value_at_check))
        return state._replace(
            # `previous` stays: the next step's momentum runs from the last iterate to the best point.
            images=select(halve, state.best_images, state.images),
            gradient=select(halve, state.best_gradient, state.gradient),
            step_size=select(halve, 0.5 * state.step_size, state.step_size),
            rises=tf.zeros_like(state.rises),
            halved=halve,
            value_at_check=state.best_value,
        )


def check_periods(steps: int) -> list[int]:
    """The schedule of the checks of the step size.

    Args:
        steps: number of steps.

    Returns:
        For each step, 0, or, when a check follows it, the number of steps since the last one.
    """
    period, shrink, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    periods = [0] * steps
    last = -1
    while last + period < steps:
        last += period
        periods[last] = period
        period = max(period - shrink, shortest)
    return periods
