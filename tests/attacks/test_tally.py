import numpy as np
import pytest

from harp_tf.attacks.tally import accuracies, wilson


@pytest.mark.parametrize(
    ("right", "total", "interval"),
    [
        # Computed by hand from Wilson's formula; (81, 263) is the example of Agresti and Coull's survey.
        (81, 263, [0.2553, 0.3662]),
        (5, 10, [0.2366, 0.7634]),
        (0, 10, [0.0, 0.2775]),
        (10, 10, [0.7225, 1.0]),
        (620, 1000, [0.5895, 0.6496]),
        (0, 0, [0.0, 1.0]),
    ],
)
def test_the_interval_of_wilson(right, total, interval):
    assert wilson(right, total) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize("total", [1, 7, 359, 10_000])
def test_the_interval_holds_the_share_and_stays_in_range(total):
    for right in {0, 1, total // 2, total - 1, total}:
        low, high = wilson(right, total)
        assert 0 <= low <= right / total <= high <= 1 and low < high


def test_accuracies_by_hand():
    labels = np.array([0, 0, 0, 1, 3, 3])
    right = np.array([True, True, False, False, True, True])
    assert accuracies(labels, right, 4) == {
        "accuracy": 4 / 6,
        "balanced_accuracy": pytest.approx((2 / 3 + 0 + 1) / 3),  # class 2 does not occur
        "per_class": [2 / 3, 0.0, None, 1.0],
        "ci95": wilson(4, 6),
        "n": 6,
        "right": "cc",  # 110011, and two bits to fill the byte
    }


def test_no_examples():
    assert accuracies(np.zeros(0, int), np.zeros(0, bool), 2) == {
        "accuracy": 0.0,
        "balanced_accuracy": 0.0,
        "per_class": [None, None],
        "ci95": [0.0, 1.0],
        "n": 0,
        "right": "",
    }
