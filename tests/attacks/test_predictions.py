"""Predicted classes on the host."""

import numpy as np
import pytest

from harp_tf.attacks.predictions import predicted
from harp_tf.types import HarpError


def test_the_largest_logit_is_the_answer():
    logits = np.array([[0.0, 2.0, 1.0], [3.0, -1.0, 2.0]], np.float32)
    assert list(predicted(lambda images: logits, np.zeros((2, 4)), "net")) == [1, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_without_finite_logits_is_refused_by_name(value):
    logits = np.zeros((3, 2), np.float32)
    logits[1, 1] = value
    with pytest.raises(HarpError, match="finite logits of the model 'pruned', received NaN or infinity for 1 of 3"):
        predicted(lambda images: logits, np.zeros((3, 4)), "pruned")
