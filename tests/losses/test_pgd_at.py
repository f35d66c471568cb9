"""Adversarial training in its plain form."""

import numpy as np

from harp_tf.attacks import PGD
from harp_tf.losses import PGDAdversarialTraining, cross_entropy


def test_is_the_cross_entropy_of_the_adversarial_pass_and_makes_no_other(passes, labels):
    terms = passes.terms(PGDAdversarialTraining())
    assert passes.asked == ["adversarial"]
    np.testing.assert_array_equal(terms.robust, cross_entropy(passes.adversarial, labels))
    np.testing.assert_array_equal(terms.adversarial_logits, passes.adversarial)
    assert terms.natural_logits is None


def test_trains_against_the_attack_as_it_is():
    attack = PGD(eps=0.1, objective="kl", start="clean")
    assert PGDAdversarialTraining().needs_attack
    assert PGDAdversarialTraining().prepare_attack(attack) is attack
