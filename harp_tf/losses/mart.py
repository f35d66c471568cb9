"""MART: adversarial training that looks harder at misclassified images."""

import dataclasses
from typing import Any

import tensorflow as tf

from harp_tf.losses.base import Logits, LossTerms, RobustLoss, aimed, require_beta
from harp_tf.losses.terms import cross_entropy, kl_from_logits


@dataclasses.dataclass(frozen=True)
class Mart(RobustLoss):
    """Boosted CE on x_adv + beta * KL(f(x) || f(x_adv)) * (1 - p_y(x)), all in log space.

    The boosted cross-entropy is -log p_y - log(1 - max of the other classes' p).

    Attributes:
        beta: weight of the KL term, at least 0.

    Raises:
        HarpError: if beta is no such number.

    Reference:
        Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples, ICLR 2020,
        equation 11.
    """

    beta: float = 6.0

    def __post_init__(self):
        require_beta(self.beta)

    def prepare_attack(self, attack: Any) -> Any:
        return aimed(attack, self, objective="cross_entropy", start="normal")

    def __call__(self, predict: Logits, images: tf.Tensor, adversarial: tf.Tensor, labels: tf.Tensor) -> LossTerms:
        natural_logits = predict(images)
        adversarial_logits = predict(adversarial)
        uncertain = -tf.math.expm1(-cross_entropy(natural_logits, labels))
        robust = boosted_cross_entropy(adversarial_logits, labels)
        robust += self.beta * kl_from_logits(natural_logits, adversarial_logits) * uncertain
        return LossTerms(robust, natural_logits, adversarial_logits)


def boosted_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log p_y - log(1 - max over k != y of p_k), float32 [n], without ever leaving log space.

    Args:
        logits: float32 [n, classes].
        labels: int32 [n].

    Returns:
        float32 [n].
    """
    classes = logits.shape[-1]
    minus_infinity = tf.constant(-1e30, logits.dtype)
    is_label = tf.one_hot(labels, classes, on_value=True, off_value=False, dtype=tf.bool)
    best_wrong = tf.argmax(tf.where(is_label, minus_infinity, logits), axis=-1, output_type=tf.int32)
    is_wrong = tf.one_hot(best_wrong, classes, on_value=True, off_value=False, dtype=tf.bool)
    everything = tf.reduce_logsumexp(logits, axis=-1)
    others = tf.reduce_logsumexp(tf.where(is_wrong, minus_infinity, logits), axis=-1)
    return cross_entropy(logits, labels) + everything - others
