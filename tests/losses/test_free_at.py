"""What free adversarial training asks of the trainer; the replays are the trainer's."""

import numpy as np
import pytest

from harp_tf.losses import FreeAdversarialTraining, cross_entropy
from harp_tf.types import HarpError


def test_is_the_cross_entropy_of_the_adversarial_pass_and_makes_no_other(passes, labels):
    terms = passes.terms(FreeAdversarialTraining(batch_size=6))
    assert passes.asked == ["adversarial"]
    np.testing.assert_array_equal(terms.robust, cross_entropy(passes.adversarial, labels))


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": 8, "replays": 0}], ids=str)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(HarpError, match="batch_size >= 1 and replays >= 1"):
        FreeAdversarialTraining(**settings)
