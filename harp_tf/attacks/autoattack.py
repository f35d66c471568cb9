"""AutoAttack: a cascade of attacks of different kinds, each on those that the ones before it left standing."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from harp_tf.attacks.apgd import APGD, APGDTargeted
from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.fab import FABTargeted
from harp_tf.attacks.square import Square
from harp_tf.types import HarpError, require_choice

VERSIONS = ("standard", "rand")
_PASSES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cascade(Attack):
    """Attacks in a row; an example falls when any of them fools the network.

    Attributes:
        parts: names and attacks, in the order in which they run, all with the cascade's norm and eps.
    """

    parts: tuple[tuple[str, Attack], ...]

    def __post_init__(self):
        super().__post_init__()
        if not self.parts or any((part.eps, part.norm) != (self.eps, self.norm) for _, part in self.parts):
            raise HarpError(
                f"The parts of a cascade must be attacks with its norm {self.norm!r} and eps {self.eps!r}, received "
                f"{[(name, part.norm, part.eps) for name, part in self.parts]}."
            )

    def tries(self, num_classes: int) -> int:
        return sum(part.tries(num_classes) for _, part in self.parts)

    def note(self, num_classes: int) -> str:
        notes = {name: part.note(num_classes) for name, part in self.parts}
        return "; ".join(f"{name}: {note}" for name, note in notes.items() if note)

    def perturb(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        num_classes = logits(images[:1]).shape[-1]
        tries = [(part, own) for _, part in self.parts for own in range(part.tries(num_classes))]

        def branch(part: Attack, own: int) -> Callable[[], tf.Tensor]:
            return lambda: part.attempt(logits, images, labels, seed, own)

        return tf.switch_case(tf.convert_to_tensor(number), [branch(part, own) for part, own in tries])

    def _candidates(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        return self.perturb(logits, images, labels, seed, number)  # each part has its own seeds for its tries

    def as_dict(self) -> dict:
        return {
            "attack": type(self).__name__.lower(),
            "eps": self.eps,
            "norm": self.norm,
            "parts": {name: part.as_dict() for name, part in self.parts},
        }


def AutoAttack(*, eps: float, norm: str = "linf", version: str = "standard") -> Cascade:
    """The ensemble that robustness is compared by, with the settings of its authors.

    "standard" is APGD-CE (100 steps), APGD-T (100 steps for each of 9 targets), FAB-T (the same) and Square (5,000
    queries). "rand", for networks that answer at random, is APGD-CE and APGD-DLR, with gradients of 20 passes each.

    Args:
        eps: radius of the ball, in units of pixels scaled to [0, 1].
        norm: "linf" or "l2".
        version: "standard" or "rand".

    Returns:
        The attack.

    Reference:
        Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks, ICML 2020.
    """
    require_choice("version", version, VERSIONS)
    parts: dict[str, Attack]
    if version == "standard":
        parts = {
            "apgd_ce": APGD(eps=eps, norm=norm),
            "apgd_t": APGDTargeted(eps=eps, norm=norm),
            "fab_t": FABTargeted(eps=eps, norm=norm),
            "square": Square(eps=eps, norm=norm),
        }
    else:
        parts = {
            "apgd_ce": APGD(eps=eps, norm=norm, passes=_PASSES),
            "apgd_dlr": APGD(eps=eps, norm=norm, objective="dlr", passes=_PASSES),
        }
    return Cascade(eps=eps, norm=norm, parts=tuple(parts.items()))
