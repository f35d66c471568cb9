"""The values that attacks maximise, against formulas written out per example."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import objectives
from harp_tf.types import HarpError

LOGITS = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
LABELS = np.random.default_rng(1).integers(6, size=40).astype("int32")
TARGETS = ((LABELS + 2) % 6).astype("int32")


def by_hand(formula) -> np.ndarray:
    """`formula(z, z_sorted_downwards, y, t)` of every example."""
    return np.array([formula(z, np.sort(z)[::-1], y, t) for z, y, t in zip(LOGITS.astype(float), LABELS, TARGETS)])


EXPECTED = {
    "margin": by_hand(lambda z, s, y, t: np.delete(z, y).max() - z[y]),
    "targeted_margin": by_hand(lambda z, s, y, t: z[t] - z[y]),
    "dlr": by_hand(lambda z, s, y, t: -(z[y] - np.delete(z, y).max()) / (s[0] - s[2] + 1e-12)),
    "targeted_dlr": by_hand(lambda z, s, y, t: -(z[y] - z[t]) / (s[0] - 0.5 * (s[2] + s[3]) + 1e-12)),
}


def value(name, logits=LOGITS):
    more = (TARGETS,) if name.startswith("targeted") else ()
    return getattr(objectives, name)(tf.constant(logits), tf.constant(LABELS), *more)


@pytest.mark.parametrize("name", EXPECTED)
def test_values(name):
    assert value(name).dtype == tf.float32
    np.testing.assert_allclose(value(name), EXPECTED[name], rtol=2e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_margins_grow_with_the_logits_and_the_ratios_do_not(name):
    factor = 1.0 if name.endswith("dlr") else 1000.0
    np.testing.assert_allclose(value(name, 1000 * LOGITS), factor * EXPECTED[name], rtol=2e-5)


@pytest.mark.parametrize("name", ["margin", "dlr"])
def test_above_zero_means_misclassified(name):
    np.testing.assert_array_equal(value(name) > 0, objectives.misclassified(LOGITS, LABELS))


def test_misclassified_is_not_what_is_right_nor_what_is_not_a_number():
    logits = tf.constant([[2.0, 1.0], [1.0, 2.0], [float("nan"), 1.0], [1.0, float("nan")], [0.0, float("inf")]])
    wrong = objectives.misclassified(logits, tf.zeros([5], tf.int32))
    assert wrong.numpy().tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("number", [0, 3, tf.constant(4)], ids=str)
def test_the_targets_of_a_try_are_of_its_rank(number):
    expected = np.argsort(-LOGITS, axis=1)[:, int(number) + 1]
    np.testing.assert_array_equal(objectives.target_of_try(tf.constant(LOGITS), number, 5), expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_margins_of_few_classes(classes):
    logits = LOGITS[:, :classes]
    labels = LABELS % classes
    expected = [np.delete(z, y).max() - z[y] for z, y in zip(logits, labels)]
    np.testing.assert_allclose(objectives.margin(tf.constant(logits), tf.constant(labels)), expected, rtol=1e-6)


def test_value_logits_and_gradient_of_one_pass():
    passes = []

    def logits(images):
        passes.append(images)
        return images * tf.constant([1.0, 2.0])

    def objective(scores):
        return tf.reduce_sum(scores**2, axis=-1)

    values, scores, gradient = objectives.value_and_gradient(logits, objective, tf.constant([[3.0, 1.0]]), "PGD")
    np.testing.assert_array_equal(values, [13.0])
    np.testing.assert_array_equal(scores, [[3.0, 2.0]])
    np.testing.assert_array_equal(gradient, [[6.0, 8.0]])
    assert len(passes) == 1


def test_logits_without_a_gradient_are_refused_in_the_attacks_name():
    with pytest.raises(HarpError, match="no gradient with respect to the images, so Mine cannot attack"):
        objectives.value_and_gradient(tf.stop_gradient, tf.reduce_sum, tf.ones([1, 2]), "Mine")
