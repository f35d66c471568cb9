"""Two devices of one process train as one device does."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SAME = ["natural", "pgd", "trades", "mart", "free", "pgd:finetune", "pgd:channel", "trades:clipped"]
OTHER = ["pgd:local", "natural:dropout", "natural:accumulate", "pgd:half"]


def trained(new_process, *arguments: str) -> dict:
    ended = new_process("-m", "tests.training.distributed_cases", *arguments, seconds=900)
    assert ended.status == 0, ended.err[-3000:]
    return json.loads(ended.out.splitlines()[-1])


def assert_same(one: dict, other: dict, tolerance: float = 1e-5) -> None:
    """Two results of `distributed_cases.train`."""
    assert one["best_epoch"] == other["best_epoch"]
    assert one["images_counted"] == other["images_counted"] == 21
    for part in ("history", "learned"):
        assert set(one[part]) == set(other[part])
        for name, values in one[part].items():
            np.testing.assert_allclose(other[part][name], values, rtol=0, atol=tolerance, err_msg=f"{part} {name}")


def same_losses(results: dict, case: str) -> bool:
    one, other = (results[strategy][case]["history"]["loss"] for strategy in ("none", "mirrored:2"))
    assert np.isfinite(other).all()
    return np.allclose(one, other, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def results(new_process):
    return trained(new_process, "mirrored:2,none", *SAME, *OTHER)


@pytest.mark.parametrize("case", SAME)
def test_two_devices_train_as_one(results, case):
    assert_same(results["none"][case], results["mirrored:2"][case])


@pytest.mark.parametrize("case", [*SAME, *OTHER])
def test_the_devices_have_the_same_network_afterwards(results, case):
    assert results["mirrored:2"][case]["apart"] == 0.0


def test_batch_normalisation_of_each_device_is_another_training(results):
    assert not same_losses(results, "pgd:local")


def test_two_devices_train_as_one_in_half_precision(results):
    half = results["none"]["pgd:half"]
    assert_same(half, results["mirrored:2"]["pgd:half"], tolerance=5e-4)
    differences = np.abs(np.subtract(half["history"]["loss"], results["none"]["pgd"]["history"]["loss"]))
    assert 0 < differences.max() < 0.02, "float16 was not computed in, or is another training"


def test_devices_drop_other_units(results):
    assert not same_losses(results, "natural:dropout")


def test_three_devices_share_batches_that_do_not_divide(new_process):
    found = trained(new_process, "mirrored:3,none", "free")
    assert_same(found["none"]["free"], found["mirrored:3"]["free"])
