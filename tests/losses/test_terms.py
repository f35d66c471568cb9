"""Cross-entropy and KL divergence against NumPy in float64."""

import numpy as np
import tensorflow as tf

from harp_tf.losses.terms import cross_entropy, kl_from_logits

P = np.random.default_rng(1).normal(scale=3.0, size=(20, 5))
Q = np.random.default_rng(2).normal(scale=3.0, size=(20, 5))


def softmax(z) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_cross_entropy_is_minus_the_log_of_the_labels_probability():
    labels = np.arange(20) % 5
    expected = -np.log(softmax(P)[np.arange(20), labels])
    values = cross_entropy(tf.constant(P, tf.float32), tf.constant(labels, tf.int32))
    assert values.shape == [20] and values.dtype == tf.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_kl_is_the_sum_of_p_log_p_over_q():
    p, q = softmax(P), softmax(Q)
    values = kl_from_logits(tf.constant(P, tf.float32), tf.constant(Q, tf.float32))
    assert values.shape == [20] and values.dtype == tf.float32
    np.testing.assert_allclose(values, (p * np.log(p / q)).sum(1), rtol=1e-4, atol=1e-6)


def test_kl_of_equal_predictions_is_zero_and_not_negative():
    p = tf.constant(P, tf.float32)
    np.testing.assert_allclose(kl_from_logits(p, p), 0.0, atol=1e-7)
    # Logits are known up to a constant.
    np.testing.assert_allclose(kl_from_logits(p, p + 7.0), 0.0, atol=1e-6)


def test_kl_stays_finite_where_probabilities_are_zero_in_float32():
    p = tf.Variable([[500.0, 0.0, -500.0]])
    q = tf.Variable([[-500.0, 0.0, 500.0]])
    with tf.GradientTape() as tape:
        value = kl_from_logits(p, q)
    np.testing.assert_allclose(value, [1000.0])
    # d/dq = softmax(q) - softmax(p); p is sure, so its own gradient vanishes.
    to_p, to_q = tape.gradient(value, [p, q])
    np.testing.assert_allclose(to_p, [[0.0, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(to_q, [[-1.0, 0.0, 1.0]], atol=1e-6)
