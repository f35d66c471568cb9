"""The handwritten digits that come inside scikit-learn: 1,797 real images of 8x8 pixels."""

import numpy as np

from harp_tf.data.memory import FIXED_SEED, Labelled, stratified_cut

TEST_FRACTION = 0.2


def load() -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Returns (images, labels) for training and for testing, and the class names.

    Images are float32 [n, 8, 8, 1] in [0, 1] (16 grey levels, divided by 16). The set has no test part of its
    own: a fifth of every class is set apart, always the same images, whatever the seed of a run.
    """
    from sklearn.datasets import load_digits  # slow to import, and needed for this set only

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., np.newaxis]
    train, test = stratified_cut(digits.target, TEST_FRACTION, FIXED_SEED)
    names = tuple(str(name) for name in digits.target_names)
    return (images[train], digits.target[train]), (images[test], digits.target[test]), names
