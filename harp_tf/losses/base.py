"""What every robust loss is: named terms per example, and the attack it trains against."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

Logits = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """The terms of a loss on one batch.

    Attributes:
        robust: float32 [n], what is minimised.
        natural: float32 [n], cross-entropy on the clean images.
        natural_logits: float32 [n, classes] on the clean images.
        adversarial_logits: float32 [n, classes] on the adversarial images.
    """

    robust: tf.Tensor
    natural: tf.Tensor
    natural_logits: tf.Tensor
    adversarial_logits: tf.Tensor


@dataclasses.dataclass(frozen=True)
class RobustLoss(abc.ABC):
    """A training loss on clean images and their adversarial counterparts.

    Attributes:
        needs_attack: whether the trainer has to craft adversarial images for it.
    """

    needs_attack: ClassVar[bool] = True

    def prepare_attack(self, attack: Any) -> Any:
        """The given attack with the objective and the start that this loss trains against."""
        return attack

    @abc.abstractmethod
    def __call__(
        self, train: Logits, infer: Logits, images: tf.Tensor, adversarial: tf.Tensor, labels: tf.Tensor
    ) -> LossTerms:
        """Computes the terms.

        Args:
            train: images -> logits in training mode. Every call moves moving statistics, so only passes that
                belong to the loss use it.
            infer: images -> logits in inference mode, for figures that are only reported.
            images: float32 [n, ...] in [0, 1].
            adversarial: float32, the same shape.
            labels: int32 [n].

        Returns:
            The terms, float32.
        """
