"""What every robust loss is: named terms per example, and the attack it trains against."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from harp_tf.configured import Configured
from harp_tf.types import HarpError, is_number

Logits = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """The terms of a loss on one batch.

    Attributes:
        robust: float32 [n], what is minimised.
        natural_logits: float32 [n, classes] on the clean images; None if the loss does not look at them.
        adversarial_logits: float32 [n, classes] on the adversarial images; None if the loss does not look at them.
    """

    robust: tf.Tensor
    natural_logits: tf.Tensor | None
    adversarial_logits: tf.Tensor | None


@dataclasses.dataclass(frozen=True)
class RobustLoss(Configured, abc.ABC):
    """A training loss on clean images and their adversarial counterparts.

    Subclasses are frozen dataclasses, so that a training that is saved knows their settings.

    Attributes:
        needs_attack: whether it looks at adversarial images, so that the trainer needs an attack.
    """

    needs_attack: ClassVar[bool] = True

    def prepare_attack(self, attack: Any) -> Any:
        """The given attack with the objective and the start that this loss trains against."""
        return attack

    @abc.abstractmethod
    def __call__(self, predict: Logits, images: tf.Tensor, adversarial: tf.Tensor, labels: tf.Tensor) -> LossTerms:
        """Computes the terms.

        Args:
            predict: images -> logits. While training every call moves the moving statistics, so it is called only
                for the passes that belong to the loss.
            images: float32 [n, ...] in [0, 1].
            adversarial: float32, the same shape.
            labels: int32 [n].

        Returns:
            The terms, float32.
        """


def aimed(attack: Any, loss: RobustLoss, **settings: str) -> Any:
    """The attack with another objective and start.

    Raises:
        HarpError: if the attack has no such settings.
    """
    try:
        return dataclasses.replace(attack, **settings)
    except HarpError:
        raise
    except (TypeError, ValueError) as error:  # no such field, or one that the attack sets itself
        raise HarpError(
            f"{type(loss).__name__} sets {' and '.join(settings)} of the attack that it trains against, which "
            f"{type(attack).__name__} does not have. Use harp_tf.attacks.PGD."
        ) from error


def require_beta(beta: object) -> None:
    """Raises a HarpError unless the weight of a KL term is a finite number of at least 0."""
    if not is_number(beta) or not 0.0 <= beta < math.inf:
        raise HarpError(f"beta, the weight of the KL term, must be a number of at least 0, received {beta!r}.")
