"""Random masks follow from the seed."""

import numpy as np

from harp_tf import layers
from harp_tf.baselines.random_masks import keep_any
from tests.baselines.nets import SIZES, classifier, masks


def drawn(seed):
    network = layers.prune(classifier(), 0.75, mode="score", verbose=False)
    keep_any(network, seed)
    return masks(network)


def test_a_quarter_of_each_layer_by_lot():
    found = drawn(5)
    assert {path: mask.sum() for path, mask in found.items()} == {path: size // 4 for path, size in SIZES.items()}
    again, others = drawn(5), drawn(6)
    for path, mask in found.items():
        np.testing.assert_array_equal(again[path], mask)
        assert (others[path] != mask).any()
    # Layers of one shape are not drawn alike.
    assert (found["conv/kernel"].ravel() != found["logits/kernel"].ravel()).any()
    weights = np.abs(np.asarray(classifier().get_layer("hidden").kernel))
    assert weights[~found["hidden/kernel"]].max() > weights[found["hidden/kernel"]].min()
