"""MART against its formula with 300 digits, and where float32 probabilities are 0 or 1."""

import dataclasses
from decimal import Decimal, localcontext

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD
from harp_tf.losses import Mart

BETA = 6.0


def formula(natural, adversarial, label: int) -> float:
    """-log q_y - log(1 - max of the others' q) + beta * KL(p || q) * (1 - p_y), as the paper writes it."""
    with localcontext() as context:
        context.prec = 300

        def softmax(logits):
            powers = [Decimal(float(z)).exp() for z in logits]
            return [power / sum(powers) for power in powers]

        p, q = softmax(natural), softmax(adversarial)
        others = max(value for k, value in enumerate(q) if k != label)
        boosted = -q[label].ln() - (1 - others).ln()
        kl = sum(a * (a / b).ln() for a, b in zip(p, q))
        return float(boosted + Decimal(BETA) * kl * (1 - p[label]))


def test_equals_the_formula(passes, labels):
    terms = passes.terms(Mart(beta=BETA))
    rows = zip(passes.natural.numpy(), passes.adversarial.numpy(), labels)
    np.testing.assert_allclose(terms.robust, [formula(*row) for row in rows], rtol=1e-5)
    np.testing.assert_array_equal(terms.natural_logits, passes.natural)
    np.testing.assert_array_equal(terms.adversarial_logits, passes.adversarial)


def test_makes_one_pass_of_each_kind(passes):
    passes.terms(Mart())
    assert sorted(passes.asked) == ["adversarial", "clean"]


def test_the_gradient_is_that_of_the_formula(passes, labels):
    gradients = passes.gradients(Mart(beta=BETA))
    rows = [passes.natural.numpy().astype("float64"), passes.adversarial.numpy().astype("float64")]
    step = 1e-6
    for which, gradient in enumerate(gradients):
        for row, column in [(0, 0), (1, 2), (2, 0), (3, 3), (4, 1), (5, 2)]:
            up, down = (np.copy(rows) for _ in range(2))
            up[which, row, column] += step
            down[which, row, column] -= step
            slope = formula(*up[:, row], labels[row]) - formula(*down[:, row], labels[row])
            np.testing.assert_allclose(gradient[row, column], slope / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "natural, adversarial",
    [
        ([40.0, 0.0, -40.0, 0.0], [40.0, 0.0, -40.0, 0.0]),  # right and sure
        ([-40.0, 40.0, 0.0, 0.0], [-40.0, 40.0, 0.0, 0.0]),  # wrong and sure: 1 - max q is 0 in float32
        ([90.0, 0.0, 0.0, 0.0], [-90.0, 0.0, 90.0, 90.0]),  # p and q of each other's zeros
        ([-300.0, 300.0, 0.0, 0.0], [300.0, -300.0, 0.0, 0.0]),
    ],
    ids=["right", "wrong", "opposed", "far"],
)
def test_sure_predictions_keep_loss_and_gradients_finite_and_exact(passes_of, natural, adversarial):
    passes = passes_of([natural], [adversarial])
    terms = passes.terms(Mart(beta=BETA))
    np.testing.assert_allclose(terms.robust, [formula(natural, adversarial, 0)], rtol=1e-5, atol=1e-6)
    for gradient in passes.gradients(Mart(beta=BETA)):
        assert np.isfinite(gradient).all()


def test_a_wrong_and_sure_prediction_is_still_pushed_back(passes_of):
    passes = passes_of([[0.0, 0.0]], [[-50.0, 50.0]])
    _, gradient = passes.gradients(Mart(beta=0.0))
    # With two classes -log q_0 - log(1 - q_1) = -2 log q_0: the slope is -2 and 2.
    np.testing.assert_allclose(gradient, [[-2.0, 2.0]], rtol=1e-5)


def test_only_uncertain_clean_predictions_are_held_together(passes_of):
    sure, unsure = [30.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]
    adversarial = [1.0, 0.0, 2.0, 0.0]
    passes = passes_of([sure, unsure], [adversarial, adversarial])

    def kl_part(passes):
        return passes.terms(Mart(beta=1.0)).robust - passes.terms(Mart(beta=0.0)).robust

    passes.terms(Mart())
    held = kl_part(passes)
    assert abs(float(held[0])) < 1e-6 < 0.1 < float(held[1])


def test_beta_is_six_unless_said_otherwise():
    assert Mart().beta == 6.0


def test_trains_against_the_cross_entropy_attack_from_near_the_clean_image():
    attack = PGD(eps=0.1, objective="kl", steps=7)
    prepared = Mart().prepare_attack(attack)
    assert prepared == dataclasses.replace(attack, objective="cross_entropy", start="normal")


def test_compiles(passes):
    compiled = tf.function(lambda: passes.terms(Mart()).robust)
    np.testing.assert_allclose(compiled(), passes.terms(Mart()).robust, rtol=1e-6)
