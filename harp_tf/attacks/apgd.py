"""Auto-PGD on the objectives of AutoAttack: APGD-CE, APGD-DLR and APGD-T."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from harp_tf.attacks import objectives
from harp_tf.attacks.auto_pgd import AutoPGD
from harp_tf.attacks.base import Logits
from harp_tf.attacks.objectives import Objective
from harp_tf.losses.terms import cross_entropy
from harp_tf.types import HarpError, is_count, require_choice

OBJECTIVES = ("cross_entropy", "dlr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(AutoPGD):
    """Auto-PGD, untargeted: APGD-CE and APGD-DLR.

    An example is broken when any iterate, the random start on the sphere included, is misclassified. With fewer than
    four classes the margin stands in for the DLR loss, as in `APGDTargeted`; `note` says so.

    Attributes:
        objective: "cross_entropy" or "dlr" (difference-of-logits ratio).
        steps: number of gradient steps, >= 1.
        rho: a step size is halved when no more than this share of the steps since the last check have raised the
            objective, in [0, 1].
        passes: over how many passes gradients are averaged, >= 1; more than 1 for networks that answer at random.

    Reference:
        Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks, ICML 2020.
    """

    objective: str = "cross_entropy"

    def __post_init__(self):
        super().__post_init__()
        require_choice("objective", self.objective, OBJECTIVES)

    def note(self, num_classes: int) -> str:
        return _stand_in(num_classes) if self.objective == "dlr" else ""

    def _objective(self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, number: int | tf.Tensor) -> Objective:
        if self.objective == "cross_entropy":
            return lambda scores: cross_entropy(scores, labels)
        return lambda scores: _by_classes(scores, objectives.dlr, objectives.margin)(scores, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGDTargeted(AutoPGD):
    """Auto-PGD on the targeted DLR loss: APGD-T.

    Each try is after one class: the second by its logit on the clean image, the third and so on; any misclassification
    counts, of the target or another. With fewer than four classes, which the loss needs, the difference of the
    two logits stands in for it; `note` says so.

    Attributes:
        targets: number of targets, >= 1; with fewer than targets + 1 classes all but the first are tried.
        steps: number of gradient steps for each target, >= 1.
        rho: as in `APGD`.
        passes: as in `APGD`.

    Reference:
        As in `APGD`.
    """

    targets: int = 9

    def __post_init__(self):
        super().__post_init__()
        if not is_count(self.targets):
            raise HarpError(f"{type(self).__name__} needs a whole number of targets >= 1, received {self.targets!r}.")

    def tries(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1)

    def note(self, num_classes: int) -> str:
        return _stand_in(num_classes)

    def _objective(self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, number: int | tf.Tensor) -> Objective:
        clean = logits(images)
        # While a target is the label itself, of a misclassified image, there is nothing to gain.
        targets = objectives.target_of_try(clean, number, self.tries(clean.shape[-1]))
        loss = _by_classes(clean, objectives.targeted_dlr, objectives.targeted_margin)
        return lambda scores: loss(scores, labels, targets)


def _by_classes(scores: tf.Tensor, ratio: Callable, difference: Callable) -> Callable:
    return ratio if scores.shape[-1] >= objectives.DLR_CLASSES else difference


def _stand_in(num_classes: int) -> str:
    if num_classes >= objectives.DLR_CLASSES:
        return ""
    return f"the DLR loss needs {objectives.DLR_CLASSES} classes; with {num_classes} the margin loss stands in for it"
