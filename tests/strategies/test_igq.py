import numpy as np
import pytest

from harp_tf.strategies import KernelInfo, igq


def kernels(*sizes):
    return [KernelInfo(f"layer{i}/kernel", np.zeros(size, np.float32)) for i, size in enumerate(sizes)]


def test_one_force_compresses_all_kernels():
    # f = 0.01 leaves 100 / 2 and 300 / 4 of these weights, together 125 of 400.
    assert igq(kernels(100, 300), 125 / 400) == pytest.approx({"layer0/kernel": 1 / 2, "layer1/kernel": 1 / 4})


def test_the_numbers_of_the_authors_of_flying_bird():
    """What the bisection in their repository keeps of the layers of vgg28 at 99 %."""
    infos = kernels(144, 4608, 18432, 36864, 73728, 147456, 147456, 1280)
    kept = [round(rate * info.size) for rate, info in zip(igq(infos, 0.01).values(), infos, strict=True)]
    assert kept == [118, 567, 624, 635, 640, 643, 643, 429]


@pytest.mark.parametrize("rate", [1e-6, 0.001, 0.01, 0.1, 0.3, 0.7, 1.0])
def test_rates_add_up_to_the_overall_rate(rate):
    infos = kernels(27 * 16, 144 * 32, 102_400, 1000)
    rates = igq(infos, rate)
    assert all(0 < value <= 1 for value in rates.values())
    total = sum(info.size for info in infos)
    assert sum(rates[info.path] * info.size for info in infos) == pytest.approx(rate * total)
    assert rates["layer0/kernel"] >= rates["layer2/kernel"]
