"""C&W-inf is PGD on the margin, and breaks what the cross-entropy cannot see."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import CW, PGD

SEED = tf.constant([3, 1])
WEIGHTS = tf.constant(np.random.default_rng(0).normal(size=(16, 4)).astype("float32"))
IMAGES = tf.constant(np.random.default_rng(1).uniform(size=(20, 16)).astype("float32"))
LABELS = tf.argmax(IMAGES @ WEIGHTS, -1, tf.int32)


def success(attack, logits) -> float:
    wrong = tf.argmax(logits(attack(logits, IMAGES, LABELS, SEED)), -1, tf.int32) != LABELS
    return float(tf.reduce_mean(tf.cast(wrong, tf.float32)))


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
def test_equals_pgd_on_the_margin(norm, eps):
    settings = {"eps": eps, "norm": norm, "steps": 5, "restarts": 2}
    adversarial = [
        attack(lambda images: images @ WEIGHTS, IMAGES, LABELS, SEED)
        for attack in (CW(**settings), PGD(objective="margin", **settings))
    ]
    np.testing.assert_array_equal(*adversarial)
    assert np.abs(adversarial[0] - IMAGES).max() > 0.01


def test_breaks_a_network_whose_logits_saturate_the_cross_entropy():
    def saturated(images):
        return 1e4 * (images @ WEIGHTS)

    settings = {"eps": 0.3, "steps": 10, "start": "clean"}
    assert success(PGD(**settings), saturated) == 0.0
    assert success(CW(**settings), saturated) > 0.9


def test_the_objective_is_not_a_setting():
    with pytest.raises(TypeError, match="objective"):
        CW(eps=0.1, objective="cross_entropy")
    record = CW(eps=0.1).as_dict()
    assert (record["attack"], record["objective"]) == ("cw", "margin")
