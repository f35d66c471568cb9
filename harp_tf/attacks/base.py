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
            seed: int32 [2]; the same seed gives the same examples (others when compiled by XLA, whose random
                numbers differ).

        Returns:
            float32 images of the same shape, inside the ball and inside [0, 1], through which no gradient flows.
        """
        images = tf.cast(images, tf.float32)
        return tf.stop_gradient(self.project(self.perturb(logits, images, labels, seed), images))

    @abc.abstractmethod
    def perturb(self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns adversarial candidates; arguments as in `__call__`."""

    def project(self, candidates: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The nearest points of the ball around `images`, clipped to [0, 1]."""
        return tf.clip_by_value(images + self.ball.project(candidates - images, self.eps), 0.0, 1.0)

    def as_dict(self) -> dict:
        """The attack's name and settings, for records."""
        return {"attack": type(self).__name__.lower(), **dataclasses.asdict(self)}
