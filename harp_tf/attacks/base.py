"""The base of all attacks: it owns the ball, the box and the checks, an attack writes one method."""

import abc
import dataclasses
from collections.abc import Callable

import tensorflow as tf

from harp_tf.attacks.geometry import Norm, norm_of
from harp_tf.types import HarpError

Logits = Callable[[tf.Tensor], tf.Tensor]
"""Images [n, ...] in [0, 1] -> logits [n, classes]; the model in inference mode."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """An attack inside a ball of radius `eps` around each image, and inside the box [0, 1].

    Subclasses are frozen dataclasses and implement `perturb`; whatever it returns is projected onto the ball and
    clipped to the box before anybody sees it.

    Attributes:
        eps: radius of the ball, in units of pixels scaled to [0, 1] (8/255 for CIFAR-10), >= 0.
        norm: "linf" or "l2".
    """

    eps: float
    norm: str = "linf"

    def __post_init__(self):
        norm_of(self.norm)
        if not 0.0 <= self.eps < float("inf"):
            raise HarpError(f"eps must be a radius >= 0 in units of [0, 1] pixels, received {self.eps!r}.")

    @property
    def ball(self) -> Norm:
        """The geometry of the attack's norm."""
        return norm_of(self.norm)

    def __call__(self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Crafts adversarial examples.

        Args:
            logits: the model, a function of images in inference mode.
            images: float32 [n, ...] in [0, 1].
            labels: int32 [n], the true classes.
            seed: int32 [2], one stream of random numbers for the batch, or [n, 2], one for each example (see
                `draws.per_example`). The same seed gives the same examples (others when compiled by XLA, whose
                random numbers differ).

        Returns:
            float32 images of the same shape, inside the ball and inside [0, 1], through which no gradient flows.
        """
        images = tf.cast(images, tf.float32)

        def craft(number: int | tf.Tensor) -> tf.Tensor:
            return self.attempt(logits, images, labels, seed, number)

        if type(self).tries is Attack.tries:
            return craft(0)
        tries = self.tries(logits(images[:1]).shape[-1])  # only the static shape: a compiled graph drops the call

        def body(number: tf.Tensor, kept: tf.Tensor, fooled: tf.Tensor) -> tuple:
            candidates = craft(number)
            kept = tf.where(tf.reshape(fooled, [-1] + [1] * (len(kept.shape) - 1)), kept, candidates)
            return number + 1, kept, fooled | (tf.argmax(logits(candidates), -1, tf.int32) != labels)

        state = (tf.constant(0), images, tf.zeros_like(labels, tf.bool))
        return tf.while_loop(lambda n, *_: n < tries, body, state, maximum_iterations=tries)[1]

    def tries(self, num_classes: int) -> int:
        """How many independent tries (restarts, target classes) the attack has; the first that succeeds counts."""
        return 1

    def attempt(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        """One try of the attack; arguments and result as in `__call__`, `number` in [0, tries).

        Whoever attacks many images calls this for one try after the other, and for those still standing only.
        """
        return tf.stop_gradient(self.project(self.perturb(logits, images, labels, seed, number), images))

    @abc.abstractmethod
    def perturb(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        """Returns adversarial candidates of one try; arguments as in `attempt`."""

    def project(self, candidates: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The nearest points of the ball around `images`, clipped to [0, 1]."""
        return tf.clip_by_value(images + self.ball.project(candidates - images, self.eps), 0.0, 1.0)

    def as_dict(self) -> dict:
        """The attack's name and settings, for records."""
        return {"attack": type(self).__name__.lower(), **dataclasses.asdict(self)}
