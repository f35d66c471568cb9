"""The base of all attacks: it owns the ball, the box and the checks, an attack writes one method."""

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from harp_tf.attacks.geometry import Norm, norm_of, select
from harp_tf.attacks.objectives import misclassified
from harp_tf.configured import Configured
from harp_tf.types import HarpError

Logits = Callable[[tf.Tensor], tf.Tensor]
"""Images [n, ...] in [0, 1] -> logits [n, classes]; the model in inference mode."""

FAULTS = ("", "are not numbers (NaN)", "leave the ball around the image", "leave the box [0, 1] of pixels")
"""What can be wrong with a candidate, by the number that `Attack.checked_attempt` gives it; 0 is none."""

_NEXT_TRY = 1_000_003


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(Configured, abc.ABC):
    """An attack inside a ball of radius `eps` around each image, and inside the box [0, 1].

    Subclasses are frozen dataclasses and implement `perturb`; whatever it returns is projected onto the ball and
    clipped to the box before anybody sees it. So a wrong attack cannot break a training, yet its figures would mean
    little: an evaluation calls `checked_attempt`, and shows the faults it returns to `require_sound`, which refuses
    an attack that left the ball or the box or returned NaN, by name.

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
        if self.norm == "linf" and self.eps > 1.0:
            raise HarpError(
                f"eps must be at most 1 for the norm linf, received {self.eps!r}: it is in units of [0, 1] pixels. "
                "Divide a radius in 8-bit pixels by 255."
            )

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

        if self._single:
            return craft(0)
        tries = self.tries(logits(images[:1]).shape[-1])  # only the static shape: a compiled graph drops the call

        def body(number: tf.Tensor, kept: tf.Tensor, fooled: tf.Tensor) -> tuple:
            candidates = craft(number)
            kept = select(fooled, kept, candidates)
            return number + 1, kept, fooled | misclassified(logits(candidates), labels)

        state = (tf.constant(0), images, tf.zeros_like(labels, tf.bool))
        return tf.while_loop(lambda n, *_: n < tries, body, state, maximum_iterations=tries)[1]

    def tries(self, num_classes: int) -> int:
        """How many independent tries (restarts, target classes) the attack has; the first that succeeds counts."""
        return 1

    @property
    def _single(self) -> bool:
        # Whether there is one try whatever the number of classes: a training step need not ask the model for it.
        return type(self).tries is Attack.tries

    def note(self, num_classes: int) -> str:
        """What a reader of the figures must know about this attack on so many classes; empty if nothing."""
        return ""

    def attempt(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        """One try of the attack; arguments and result as in `__call__`, `number` in [0, tries).

        Whoever attacks many images calls this for one try after the other, and for those still standing only.
        """
        images = tf.cast(images, tf.float32)
        return tf.stop_gradient(self.project(self._candidates(logits, images, labels, seed, number), images))

    def checked_attempt(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`attempt`, of the same arguments, and what was wrong with the candidates before they were projected.

        Returns:
            The result of `attempt`, and int32 [n] with the first of `FAULTS` that each example has. The host passes the
            latter to `require_sound`; a compiled graph has nothing to raise with.
        """
        images = tf.cast(images, tf.float32)
        raw = self._candidates(logits, images, labels, seed, number)
        return tf.stop_gradient(self.project(raw, images)), self.faults(raw, images, self.eps)

    def faults(self, raw: tf.Tensor, images: tf.Tensor, radius: float) -> tf.Tensor:
        """What is wrong with candidates that were not projected yet.

        Args:
            raw: float32 [n, ...], the candidates.
            images: float32 [n, ...], the images they belong to.
            radius: of the ball they should be in; infinity for a search that knows none.

        Returns:
            int32 [n], the first of `FAULTS` that each candidate has, 0 for none; for `require_sound`.
        """
        axes = list(range(1, len(images.shape)))
        # Rounding: a ten-thousandth of the radius and a millionth per pixel.
        room = 1e-4 * radius + self.ball.size(tf.fill(tf.shape(images), 1e-6))
        faults = tf.where(tf.reduce_any((raw < -1e-6) | (raw > 1 + 1e-6), axis=axes), 3, 0)
        faults = tf.where(self.ball.size(raw - images) > room + radius, 2, faults)
        return tf.where(tf.reduce_any(tf.math.is_nan(raw), axis=axes), 1, faults)

    def require_sound(self, faults: np.ndarray) -> None:
        """Refuses candidates with a fault.

        Args:
            faults: int [n], of `checked_attempt`.

        Raises:
            HarpError: some candidate has one; the message names the attack.
        """
        kinds = [f"{int((faults == kind).sum())} {FAULTS[kind]}" for kind in np.unique(faults[faults > 0])]
        if kinds:
            raise HarpError(
                f"{type(self).__name__} returned wrong candidates: of {len(faults)}, {' and '.join(kinds)}. No figure "
                "comes from a wrong attack. Mend its `perturb`; NaN may also come from a model whose gradients are NaN."
            )

    def _candidates(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        if not isinstance(number, int) or number:  # the first try has the seed itself
            seed = seed + _NEXT_TRY * tf.stack([0, tf.cast(number, tf.int32)])
        return self.perturb(lambda x: tf.cast(logits(x), tf.float32), images, labels, seed, number)

    @abc.abstractmethod
    def perturb(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        """Returns adversarial candidates of one try.

        Args:
            logits: the model; its logits are float32 here, whatever its precision.
            images: float32 [n, ...] in [0, 1].
            labels: int32 [n], the true classes.
            seed: int32 [2] or [n, 2], another one for every try.
            number: of the try, in [0, tries).

        Returns:
            float32 [n, ...], inside the ball and the box.
        """

    def project(self, candidates: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The nearest points of the ball around `images`, clipped to [0, 1]."""
        return tf.clip_by_value(images + self.ball.project(candidates - images, self.eps), 0.0, 1.0)

    def as_dict(self) -> dict:
        """The attack's name and settings, for records."""
        return {"attack": type(self).__name__.lower(), **dataclasses.asdict(self)}
