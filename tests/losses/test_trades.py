"""TRADES against its formula and the gradients derived from it by hand."""

import dataclasses

import numpy as np
import pytest

from harp_tf.attacks import CW, PGD, Attack
from harp_tf.losses import Trades
from harp_tf.types import HarpError


def softmax(z) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_equals_the_formula(passes, labels, beta):
    terms = passes.terms(Trades(beta=beta))
    p, q = (softmax(z.numpy().astype("float64")) for z in (passes.natural, passes.adversarial))
    expected = -np.log(p[np.arange(6), labels]) + beta * (p * np.log(p / q)).sum(1)
    np.testing.assert_allclose(terms.robust, expected, rtol=1e-5)
    np.testing.assert_array_equal(terms.natural_logits, passes.natural)
    np.testing.assert_array_equal(terms.adversarial_logits, passes.adversarial)


def test_makes_one_pass_of_each_kind(passes):
    passes.terms(Trades())
    assert sorted(passes.asked) == ["adversarial", "clean"]


def test_the_gradient_goes_through_both_passes(passes, labels):
    beta = 6.0
    p, q = (softmax(z.numpy().astype("float64")) for z in (passes.natural, passes.adversarial))
    kl = (p * np.log(p / q)).sum(1, keepdims=True)
    to_natural, to_adversarial = passes.gradients(Trades(beta=beta))
    expected = p - np.eye(4)[labels] + beta * p * (np.log(p / q) - kl)
    np.testing.assert_allclose(to_natural, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(to_adversarial, beta * (q - p), rtol=1e-4, atol=1e-5)


def test_beta_is_six_unless_said_otherwise():
    assert Trades().beta == 6.0


def test_trains_against_the_kl_attack_from_near_the_clean_image():
    attack = PGD(eps=0.1, norm="l2", steps=7)
    assert Trades().prepare_attack(attack) == dataclasses.replace(attack, objective="kl", start="normal")


def test_an_attack_without_an_objective_is_refused():
    class Other(Attack):
        def perturb(self, logits, images, labels, seed, number):
            return images

    with pytest.raises(HarpError, match="Trades sets objective and start .* which CW does not have. Use .*PGD"):
        Trades().prepare_attack(CW(eps=0.1))
    with pytest.raises(HarpError, match="Trades sets objective and start .* which Other does not have"):
        Trades().prepare_attack(Other(eps=0.1))
