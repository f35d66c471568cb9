"""The loss without an adversary."""

import numpy as np

from harp_tf.losses import Natural, cross_entropy


def test_is_the_cross_entropy_of_the_clean_pass_and_makes_no_other(passes, labels):
    terms = passes.terms(Natural())
    assert passes.asked == ["clean"]
    np.testing.assert_array_equal(terms.robust, cross_entropy(passes.natural, labels))
    np.testing.assert_array_equal(terms.natural_logits, passes.natural)
    assert terms.adversarial_logits is None


def test_needs_no_attack():
    assert not Natural().needs_attack
