"""FAB-T: walks along the decision boundary towards the image."""

import dataclasses

import tensorflow as tf

from harp_tf.attacks.base import Logits
from harp_tf.attacks.fab_projection import onto_hyperplane
from harp_tf.attacks.geometry import select
from harp_tf.attacks.minimum_norm import MinimumNorm
from harp_tf.attacks.objectives import misclassified, target_of_try, targeted_margin, value_and_gradient
from harp_tf.types import HarpError, is_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class FABTargeted(MinimumNorm):
    """The targeted Fast Adaptive Boundary attack, as in the standard AutoAttack: no random starts.

    Each try is after one class: the second by its logit on the clean image, the third and so on. Every step linearises
    the boundary to that class, goes onto it from the iterate and from the image alike, mixes the two, and steps back
    towards the image from each adversarial point. Any misclassification counts, of the target or another.

    Attributes:
        targets: number of targets, >= 1; with fewer than targets + 1 classes all but the first are tried.
        steps: number of steps for each target, >= 1.
        alpha_max: the largest weight of the step that starts at the image, in [0, 1].
        eta: how far steps overshoot the linearised boundary, >= 1.
        beta: the share of its distance at which an adversarial iterate goes on, in (0, 1).

    Reference:
        Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020;
        its targeted form in: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks, ICML 2020.
    """

    targets: int = 9
    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not is_count(self.targets) or not is_count(self.steps):
            raise HarpError(
                "FABTargeted needs whole numbers of targets and steps >= 1, received "
                f"targets={self.targets!r} and steps={self.steps!r}."
            )
        if not (0.0 <= self.alpha_max <= 1.0 and 1.0 <= self.eta < float("inf") and 0.0 < self.beta < 1.0):
            raise HarpError(
                "FABTargeted needs alpha_max in [0, 1], eta >= 1 and beta in (0, 1), received "
                f"alpha_max={self.alpha_max!r}, eta={self.eta!r} and beta={self.beta!r}."
            )

    def tries(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1)

    def _search(
        self,
        logits: Logits,
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor,
        number: int | tf.Tensor,
        enough: float,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        shape = tf.shape(images)
        origin = tf.reshape(images, [shape[0], images.shape[1:].num_elements()])

        def scores(points: tf.Tensor) -> tf.Tensor:
            return logits(tf.reshape(points, shape))

        clean = logits(images)
        targets = target_of_try(clean, number, self.tries(clean.shape[-1]))

        def step(points: tf.Tensor, best: tf.Tensor, distance: tf.Tensor) -> tuple[tf.Tensor, ...]:
            margins, _, normals = value_and_gradient(
                scores, lambda z: targeted_margin(z, labels, targets), points, type(self).__name__
            )
            points = self._approach(points, origin, margins, normals)
            adversarial = misclassified(scores(points), labels)
            change = points - origin
            size = self.ball.size(change)
            nearer = adversarial & (size < distance)
            best = select(nearer, points, best)
            points = select(adversarial, origin + self.beta * change, points)
            return points, best, tf.where(nearer, size, distance)

        # An image that is misclassified as it is has arrived: nothing is nearer than distance 0.
        distance = tf.where(misclassified(clean, labels), 0.0, float("inf"))
        _, best, distance = tf.while_loop(
            lambda *state: tf.reduce_any(state[2] > enough),
            step,
            (origin, origin, distance),
            maximum_iterations=self.steps,
        )
        return tf.reshape(best, shape), distance

    def _approach(self, points: tf.Tensor, origin: tf.Tensor, margins: tf.Tensor, normals: tf.Tensor) -> tf.Tensor:
        """One step, from points [n, d] towards where margin + normal . move = 0."""
        to_origin = tf.reduce_sum(normals * (points - origin), axis=1)
        moves = onto_hyperplane(
            tf.concat([points, origin], 0),
            tf.concat([normals, normals], 0),
            tf.concat([-margins, to_origin - margins], 0),
            self.norm,
        )
        sizes = tf.maximum(self.ball.size(moves), 1e-8)
        from_points, from_origin = tf.split(moves, 2)
        near, far = tf.split(sizes, 2)
        alpha = tf.minimum(near / (near + far), self.alpha_max)[:, None]
        mixed = (1.0 - alpha) * (points + self.eta * from_points) + alpha * (origin + self.eta * from_origin)
        return tf.clip_by_value(mixed, 0.0, 1.0)
