"""Two processes train as one device does, and Keras still needs what it is given for that."""

import json

import pytest

from tests import workers
from tests.training.test_distribution_mirrored import assert_same, trained

pytestmark = pytest.mark.slow


def printed(logs, index: int) -> dict:
    return json.loads((logs / f"{index}.out").read_text().splitlines()[-1])


def test_two_processes_train_as_one_device(new_process, tmp_path):
    cases = ["free", "trades:finetune", "natural:dense"]
    program = ["-m", "tests.training.distributed_cases"]
    statuses, errors = workers.outcome(2, [*program, "multi_worker", *cases], tmp_path, seconds=400)
    assert statuses == [0, 0], errors
    first, second = (printed(tmp_path, index)["multi_worker"] for index in range(2))
    assert first == second
    alone = trained(new_process, "none", *cases)["none"]
    for case in cases:
        assert_same(alone[case], first[case])


def test_keras_still_breaks_under_several_workers(tmp_path):
    statuses, errors = workers.outcome(2, ["-m", "tests.training.keras_workers"], tmp_path, seconds=200)
    assert statuses == [0, 0], errors
    found = printed(tmp_path, 0)
    mended = "Keras has mended its {}: remove {} from harp_tf/training/keras_strategies.py, and see " + (
        "https://github.com/keras-team/keras/issues/20585"
    )
    assert "PerReplica" in found["symbolic build"], mended.format("symbolic build", "_maybe_symbolic_build")
    assert "Invalid reduction dimension 0" in found["scalar figures"], mended.format("scalar figures", "_for_keras")
