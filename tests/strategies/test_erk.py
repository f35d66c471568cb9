import numpy as np
import pytest

from harp_tf.strategies import KernelInfo, erk


def kernels(*shapes):
    return [KernelInfo(f"layer{i}/kernel", np.zeros(shape, np.float32)) for i, shape in enumerate(shapes)]


def kept(infos, rates):
    return sum(rates[info.path] * info.size for info in infos)


def test_rates_in_proportion_to_the_sum_over_the_product_of_dimensions():
    # Densities: (3+3+4+8)/288 = 1/16 and (100+10)/1000 = 11/100; 288/16 = 18, 1000 * 11/100 = 110.
    infos = kernels((3, 3, 4, 8), (100, 10))
    rates = erk(infos, 0.05)
    scale = 0.05 * 1288 / (18 + 110)
    assert rates == pytest.approx({"layer0/kernel": scale / 16, "layer1/kernel": scale * 11 / 100})


def test_a_small_kernel_is_kept_whole_and_the_others_share_the_rest():
    # 10,007 weights shared in proportion to 15 and 1100 would give the first kernel 134 of its 72.
    infos = kernels((3, 3, 1, 8), (1000, 100))
    rates = erk(infos, 0.1)
    assert rates["layer0/kernel"] == 1.0
    assert rates["layer1/kernel"] == pytest.approx((0.1 * 100_072 - 72) / 100_000)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.3, 0.7, 1.0])
def test_rates_add_up_to_the_overall_rate(rate):
    infos = kernels((3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 64), (1024, 100), (100, 10))
    rates = erk(infos, rate)
    assert all(0 < value <= 1 + 1e-12 for value in rates.values())
    assert kept(infos, rates) == pytest.approx(rate * sum(info.size for info in infos))


def test_nothing_removed():
    assert erk(kernels((3, 3, 1, 8), (10, 10)), 1.0) == pytest.approx({"layer0/kernel": 1.0, "layer1/kernel": 1.0})
