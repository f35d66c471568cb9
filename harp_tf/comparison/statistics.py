"""Mean and deviation over seeds, and how far the test images leave an accuracy open."""

import math
import statistics
from collections.abc import Sequence

from harp_tf.attacks.tally import wilson


def summary(shares: Sequence[float], images: int) -> dict:
    """Summarises an accuracy that was measured once per seed, always on the same test images.

    Args:
        shares: accuracies in [0, 1], at least one.
        images: number of test images behind each.

    Returns:
        n; mean; sd, the sample standard deviation over seeds (None for one seed); ci95, the 95 % interval that the test
        images leave to the mean (by Wilson's score; more seeds do not narrow it); se, the standard error of the mean
        from both sources, sqrt(mean (1 - mean) / images + sd² / n); and images.
    """
    mean = statistics.fmean(shares)
    sd = statistics.stdev(shares) if len(shares) > 1 else None
    sampling = mean * (1 - mean) / images if images else 0.0
    return {
        "n": len(shares),
        "mean": mean,
        "sd": sd,
        "ci95": wilson(round(mean * images), images),
        "se": math.sqrt(sampling + (sd or 0.0) ** 2 / len(shares)),
        "images": images,
    }
