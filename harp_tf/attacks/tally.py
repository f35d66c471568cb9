"""From right and wrong answers to accuracies, with the range in which the true one lies."""

import math

import numpy as np

from harp_tf.answers import packed

_Z = 1.959964  # of the normal distribution, for 95 %


def wilson(right: int, total: int) -> list[float]:
    """The 95 % confidence interval of an accuracy, by Wilson's score.

    Unlike the usual plus or minus two standard errors it is neither empty nor outside [0, 1] at 0 and 100 %.

    Args:
        right: number of correct answers.
        total: number of answers.

    Returns:
        [low, high], [0, 1] of no answers at all.

    Reference:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    if not total:
        return [0.0, 1.0]
    share, scale = right / total, 1 + _Z**2 / total
    centre = (share + _Z**2 / (2 * total)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    # At the ends the interval closes exactly; rounding must not leave it a hair outside.
    return [max(0.0, centre - half) if right else 0.0, min(1.0, centre + half) if right < total else 1.0]


def accuracies(labels: np.ndarray, right: np.ndarray, num_classes: int) -> dict:
    """Accuracy in all its forms.

    Args:
        labels: int [n], the true classes.
        right: bool [n], whether each example was classified correctly.
        num_classes: number of classes.

    Returns:
        accuracy, balanced_accuracy (the mean over the classes that occur), per_class (None for a class that does
        not occur), ci95, n and right, see `answers.packed`. Without examples the accuracies are 0.
    """
    seen = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[right], minlength=num_classes)
    per_class = [float(c / s) if s else None for c, s in zip(correct, seen)]
    present = [share for share in per_class if share is not None]
    return {
        "accuracy": float(right.mean()) if len(right) else 0.0,
        "balanced_accuracy": float(np.mean(present)) if present else 0.0,
        "per_class": per_class,
        "ci95": wilson(int(right.sum()), len(right)),
        "n": len(right),
        "right": packed(right),
    }
