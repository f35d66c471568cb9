"""Mean and deviation over seeds, and how far the test images leave an accuracy open."""

import math
import statistics
from collections.abc import Sequence

from harp_tf.attacks.tally import wilson


def summary(shares: Sequence[float], images: int, deviation: float | None = None) -> dict:
    """Summarises an accuracy that was measured once per seed, always on the same test images.

    Args:
        shares: accuracies in [0, 1], at least one.
        images: number of test images behind each.
        deviation: over seeds, of comparable methods together, see `pooled`: two or three seeds of one method alone
            would often look too much alike. None takes that of `shares`.

    Returns:
        n; mean; sd, the sample standard deviation over seeds (None for one seed); ci95, the 95 % interval that the test
        images leave to the mean (by Wilson's score; more seeds do not narrow it); se, the standard error of the mean
        from both sources, sqrt(mean (1 - mean) / images + deviation² / n); and images.
    """
    mean = statistics.fmean(shares)
    sd = statistics.stdev(shares) if len(shares) > 1 else None
    of_seeds = next((known for known in (deviation, sd) if known is not None), 0.0)
    sampling = mean * (1 - mean) / images if images else 0.0
    return {
        "n": len(shares),
        "mean": mean,
        "sd": sd,
        "ci95": wilson(round(mean * images), images),
        "se": math.sqrt(sampling + of_seeds**2 / len(shares)),
        "images": images,
    }


def pooled(samples: Sequence[Sequence[float]]) -> float | None:
    """The common standard deviation of several samples, from those with at least two values; None without any."""
    several = [sample for sample in samples if len(sample) > 1]
    if not several:
        return None
    squares = sum((len(sample) - 1) * statistics.variance(sample) for sample in several)
    return math.sqrt(squares / sum(len(sample) - 1 for sample in several))
