import numpy as np
import pytest

from harp_tf.answers import packed, unpacked


@pytest.mark.parametrize("count", [0, 1, 8, 9, 1000])
def test_answers_are_packed_into_text_and_back(count):
    right = np.random.default_rng(count).random(count) < 0.7
    text = packed(right)
    assert len(text) == 2 * -(-count // 8)
    np.testing.assert_array_equal(unpacked(text, count), right)
    for wrong in (text + "00", "zz" + text[2:] if text else "z"):
        with pytest.raises(ValueError):
            unpacked(wrong, count)
