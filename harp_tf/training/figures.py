"""The figures that a training reports, as means over an epoch."""

import keras
import tensorflow as tf

from harp_tf import losses
from harp_tf.training.replicas import Share

Figures = dict[str, keras.metrics.Metric]


def make_figures(pruned: bool) -> Figures:
    """The metrics of an `AdversarialModel` by name; `pruned` adds those of the size penalty."""
    means = ["natural_loss", "robust_loss"] + (["hw_loss", "gamma", "rate"] if pruned else [])
    accuracies = ["natural_accuracy", "adversarial_accuracy"]
    return {
        **{name: keras.metrics.Mean(name=name) for name in means},
        **{name: keras.metrics.SparseCategoricalAccuracy(name=name) for name in accuracies},
    }


def record_loss(tracker: keras.metrics.Mean, loss: tf.Tensor, share: Share) -> None:
    """Counts the loss of one batch, a scalar; of several replicas each has a part, and the parts add up to it."""
    if share.replicas == 1:
        tracker.update_state(loss, sample_weight=share.count)
    else:
        total = tf.cast(share.total, loss.dtype)
        tracker.update_state(loss * share.replicas, sample_weight=total / share.replicas)


def record_classification(
    figures: Figures, terms: losses.LossTerms, labels: tf.Tensor, weights: tf.Tensor | None
) -> None:
    """Counts one batch.

    Args:
        figures: made by `make_figures`.
        terms: the terms of the loss; what they do not hold is not counted.
        labels: int32 [n].
        weights: float32 [n], or None.
    """
    figures["robust_loss"].update_state(terms.robust, sample_weight=weights)
    if terms.natural_logits is not None:
        natural = losses.cross_entropy(terms.natural_logits, labels)
        figures["natural_loss"].update_state(natural, sample_weight=weights)
        figures["natural_accuracy"].update_state(labels, terms.natural_logits, sample_weight=weights)
    if terms.adversarial_logits is not None:
        figures["adversarial_accuracy"].update_state(labels, terms.adversarial_logits, sample_weight=weights)


def record_size(figures: Figures, hw_loss: tf.Tensor, rate: tf.Tensor, gamma: keras.Variable, count: tf.Tensor) -> None:
    """Counts the size penalty of one batch of `count` images; all are scalars."""
    for name, value in (("hw_loss", hw_loss), ("rate", rate), ("gamma", gamma)):
        figures[name].update_state(value, sample_weight=count)
