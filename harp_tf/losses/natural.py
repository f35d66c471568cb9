"""Training without an adversary."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from harp_tf.losses.base import Logits, LossTerms, RobustLoss
from harp_tf.losses.terms import cross_entropy


@dataclasses.dataclass(frozen=True)
class Natural(RobustLoss):
    """Cross-entropy on clean images; no attack is run."""

    needs_attack: ClassVar[bool] = False

    def __call__(self, predict: Logits, images: tf.Tensor, adversarial: tf.Tensor, labels: tf.Tensor) -> LossTerms:
        logits = predict(images)
        return LossTerms(cross_entropy(logits, labels), natural_logits=logits, adversarial_logits=None)
