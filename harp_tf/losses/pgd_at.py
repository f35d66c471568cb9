"""Adversarial training in its plain form."""

import dataclasses

import tensorflow as tf

from harp_tf.losses.base import Logits, LossTerms, RobustLoss
from harp_tf.losses.terms import cross_entropy


@dataclasses.dataclass(frozen=True)
class PGDAdversarialTraining(RobustLoss):
    """Cross-entropy on adversarial images.

    Reference:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, equation 2.1.
    """

    def __call__(self, predict: Logits, images: tf.Tensor, adversarial: tf.Tensor, labels: tf.Tensor) -> LossTerms:
        logits = predict(adversarial)
        return LossTerms(cross_entropy(logits, labels), natural_logits=None, adversarial_logits=logits)
