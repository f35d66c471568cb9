import numpy as np
import pytest

from harp_tf.strategies import KernelInfo, lamp


def naive(arrays, keep):
    """Scores w^2 / (sum of all squares at least as large in the kernel), one by one; then a global cut."""
    scored = []
    for layer, array in enumerate(arrays):
        squares = [float(w) ** 2 for w in array.ravel()]
        scored += [(square / sum(other for other in squares if other >= square), layer) for square in squares]
    scored.sort(reverse=True)
    counts = [0] * len(arrays)
    for _, layer in scored[:keep]:
        counts[layer] += 1
    return [count / array.size for count, array in zip(counts, arrays, strict=True)]


def rates_of(arrays, rate):
    return list(lamp([KernelInfo(str(i), array) for i, array in enumerate(arrays)], rate).values())


def test_by_hand():
    # Scores of [3, 1, 2]: 9/9, 1/14, 4/13; of [1, 1.1]: 1/2.21, 1.21/1.21. The best three: 1, 1, 0.452.
    assert rates_of([np.array([3.0, 1.0, 2.0]), np.array([-1.0, 1.1])], 0.6) == [1 / 3, 1.0]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.29, 0.5, 0.9, 1.0])
def test_against_a_naive_implementation(rate):
    draws = np.random.default_rng(0)
    arrays = [draws.normal(0, scale, shape) for scale, shape in ((1, (3, 3, 2)), (0.1, (20, 9)), (7, (40,)))]
    total = sum(array.size for array in arrays)
    keep = int(rate * total + 1e-9)
    found = rates_of(arrays, rate)
    assert found == pytest.approx(naive(arrays, keep))
    assert sum(r * a.size for r, a in zip(found, arrays, strict=True)) == pytest.approx(keep)


def test_every_kernel_keeps_a_weight():
    arrays = [np.full(1000, 1e-6), np.full(1000, 100.0), np.arange(1000.0)]
    assert min(rates_of(arrays, 0.0001)) == 1 / 1000


def test_weights_that_are_zero_already_do_not_count_as_ties():
    arrays = [np.concatenate([np.zeros(90), np.ones(10)]), np.concatenate([np.zeros(95), np.ones(5)])]
    found = rates_of(arrays, 0.2)
    assert sum(found) * 100 == pytest.approx(40)
    assert found[0] >= 0.1 and found[1] >= 0.05


def test_an_empty_kernel_keeps_one_weight():
    assert rates_of([np.zeros(50), np.arange(1.0, 51.0)], 0.2)[0] == 1 / 50
