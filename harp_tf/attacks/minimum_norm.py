"""Attacks that look for the nearest adversarial image instead of filling a ball."""

import abc
import dataclasses

import tensorflow as tf

from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.geometry import select


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimumNorm(Attack):
    """An attack whose search knows no radius; `eps` only tells in the end which images it has fooled.

    Subclasses implement `_search`.
    """

    def nearest(
        self,
        logits: Logits,
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor,
        number: int | tf.Tensor,
        enough: float,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Searches the nearest adversarial images in one try.

        Args:
            logits: the model, of any precision.
            images: as in `Attack.perturb`.
            labels: as in `Attack.perturb`.
            seed: as in `Attack.perturb`.
            number: as in `Attack.perturb`.
            enough: a distance; the search may end when every image has an adversarial one so near.

        Returns:
            float32 [n, ...] in [0, 1], the nearest adversarial images found, the images themselves where none was
            found; and float32 [n], their distances, 0 where the image itself is misclassified and infinity where none
            was found.
        """
        return self._search(lambda x: tf.cast(logits(x), tf.float32), images, labels, seed, number, enough)

    @abc.abstractmethod
    def _search(
        self,
        logits: Logits,
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor,
        number: int | tf.Tensor,
        enough: float,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `nearest`, with float32 logits."""

    def perturb(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        points, found = self.nearest(logits, images, labels, seed, number, self.eps)
        return select(found <= self.eps, points, images)


def distances(attack: MinimumNorm, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """How far the nearest adversarial images are, in the attack's norm and whatever its `eps`.

    One such search gives the whole security curve: the robust accuracy at radius r is the share of all images whose
    distance is larger than r.

    Args:
        attack: FMN or FABTargeted.
        logits: the model, a function of images in inference mode.
        images: float32 [n, ...] in [0, 1].
        labels: int32 [n], the true classes.
        seed: int32 [2] or [n, 2], as in `Attack.__call__`.

    Returns:
        float32 [n]: the smallest distance over all tries, an upper bound of the true one; 0 where the image itself is
        misclassified, infinity where no adversarial image was found.
    """
    images = tf.cast(images, tf.float32)
    tries = attack.tries(logits(images[:1]).shape[-1])

    def body(number: tf.Tensor, smallest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = attack.nearest(logits, images, labels, seed, number, 0.0)[1]
        return number + 1, tf.minimum(smallest, found)

    state = (tf.constant(0), tf.fill(tf.shape(labels), float("inf")))
    return tf.stop_gradient(tf.while_loop(lambda n, _: n < tries, body, state, maximum_iterations=tries)[1])
