"""TRADES: accuracy on clean images plus stability around them."""

import dataclasses
from typing import Any

import tensorflow as tf

from harp_tf.losses.base import Logits, LossTerms, RobustLoss, aimed, require_beta
from harp_tf.losses.terms import cross_entropy, kl_from_logits


@dataclasses.dataclass(frozen=True)
class Trades(RobustLoss):
    """CE(f(x), y) + beta * KL(f(x) || f(x_adv)); the attack maximises that KL.

    Attributes:
        beta: weight of the KL term, at least 0.

    Raises:
        HarpError: if beta is no such number.

    Reference:
        Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019, equation 5.
    """

    beta: float = 6.0

    def __post_init__(self):
        require_beta(self.beta)

    def prepare_attack(self, attack: Any) -> Any:
        return aimed(attack, self, objective="kl", start="normal")

    def __call__(self, predict: Logits, images: tf.Tensor, adversarial: tf.Tensor, labels: tf.Tensor) -> LossTerms:
        natural_logits = predict(images)
        adversarial_logits = predict(adversarial)
        robust = cross_entropy(natural_logits, labels)
        robust += self.beta * kl_from_logits(natural_logits, adversarial_logits)
        return LossTerms(robust, natural_logits, adversarial_logits)
