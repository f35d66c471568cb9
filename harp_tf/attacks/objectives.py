"""What attacks maximise, as functions of the logits, and its gradient with respect to the images."""

from collections.abc import Callable

import tensorflow as tf

from harp_tf.types import HarpError

Objective = Callable[[tf.Tensor], tf.Tensor]
"""Logits float32 [n, classes] -> values float32 [n], to be made large."""

DLR_CLASSES = 4
"""The fewest classes for which attacks use the DLR losses; below, the margin stands in for them."""


def misclassified(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Tells which examples are misclassified, bool [n]; logits with a NaN among them count as no success."""
    return (tf.argmax(logits, -1, tf.int32) != labels) & ~tf.reduce_any(tf.math.is_nan(logits), axis=-1)


def target_of_try(logits: tf.Tensor, number: int | tf.Tensor, tries: int) -> tf.Tensor:
    """The class that a targeted attack is after in one of its tries: the second by its logit, the third and so on.

    Args:
        logits: float32 [n, classes] of the clean images, more than `tries` classes.
        number: of the try, in [0, tries).
        tries: how many there are.

    Returns:
        int32 [n].
    """
    ranked = tf.math.top_k(logits, tries + 1).indices
    return tf.gather(ranked, tf.cast(number, tf.int32) + 1, axis=1)


def margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The largest other logit minus that of the label, float32 [n]: above 0 where misclassified.

    Reference:
        Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017.
    """
    true = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False)
    others = tf.where(true, logits.dtype.min, logits)
    return tf.reduce_max(others, axis=-1) - _of_class(logits, labels)


def targeted_margin(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The target's logit minus that of the label, float32 [n]."""
    return _of_class(logits, targets) - _of_class(logits, labels)


def dlr(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The difference-of-logits ratio, float32 [n]: the margin in units of the first logit minus the third.

    Args:
        logits: float32 [n, classes], at least three classes.
        labels: int32 [n].

    Returns:
        -(z_y - max of the others) / (z_(1) - z_(3) + 1e-12), which no rescaling of the logits changes.

    Reference:
        Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks, ICML 2020.
    """
    largest = tf.math.top_k(logits, 3).values
    return margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_dlr(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The targeted difference-of-logits ratio, float32 [n].

    Args:
        logits: float32 [n, classes], at least four classes.
        labels: int32 [n].
        targets: int32 [n], the classes that the attack is after.

    Returns:
        -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12).

    Reference:
        As in `dlr`.
    """
    largest = tf.math.top_k(logits, 4).values
    scale = largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3]) + 1e-12
    return targeted_margin(logits, labels, targets) / scale


def value_and_gradient(
    logits: Callable[[tf.Tensor], tf.Tensor], objective: Objective, images: tf.Tensor, attack: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One forward and one backward pass.

    Args:
        logits: the model, see `harp_tf.attacks.Logits`.
        objective: what is maximised.
        images: float32 [n, ...].
        attack: the name of the attack, for the error.

    Returns:
        The values float32 [n], the logits float32 [n, classes], and each value's gradient with respect to its image.

    Raises:
        HarpError: no gradient reaches the images.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        scores = logits(images)
        values = objective(scores)
    gradient = tape.gradient(values, images)
    if gradient is None:
        raise HarpError(
            f"The logits have no gradient with respect to the images, so {attack} cannot attack. Remove what cuts it "
            "from the model (a cast to integers, an argmax, tf.stop_gradient)."
        )
    return values, scores, gradient


def _of_class(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, classes, batch_dims=1)
