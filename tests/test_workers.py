"""What a process does that is not the chief, and which settings do not suit several devices."""

import types

import pytest

from harp_tf import training
from harp_tf.config import STAGES, RunConfig
from harp_tf.types import HarpError
from harp_tf.workers import Workers


@pytest.fixture
def devices(monkeypatch):
    """A function that pretends there were so many devices, in this process or others."""

    def pretend(number: int, chief: bool = True) -> None:
        strategy = types.SimpleNamespace(num_replicas_in_sync=number)
        monkeypatch.setattr(training, "make_strategy", lambda name, devices: strategy)
        monkeypatch.setattr(training, "is_chief", lambda strategy: chief)

    return pretend


def test_one_process_works_in_the_run_directory(tmp_path):
    config = RunConfig(run_dir=str(tmp_path))
    workers = Workers(config)
    assert workers.chief and workers.config is config and workers.stages == STAGES
    with workers.joined():
        assert workers.strategy.num_replicas_in_sync == 1


def test_what_does_not_train_needs_no_devices(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert Workers(RunConfig(stages=("evaluate",), distribute="multi_worker")).chief
    with pytest.raises(HarpError, match="TF_CONFIG"):
        Workers(RunConfig(distribute="multi_worker"))


def test_another_than_the_chief_trains_in_a_copy(devices, tmp_path):
    devices(2, chief=False)
    run_dir = tmp_path / "run"
    for name in ("config.json", ".lock", "checkpoints/prune/epoch_0001_step_0000000/arrays.npz", "plots/curve.png"):
        path = run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    workers = Workers(RunConfig(run_dir=str(run_dir), distribute="multi_worker"))
    copy = run_dir.parent / workers.config.run_dir
    assert copy != run_dir and workers.stages == ("pretrain", "prune", "finetune")
    found = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert found == {"config.json", "checkpoints/prune/epoch_0001_step_0000000/arrays.npz"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 3}, "all 4 devices together, received 3"),
        ({"batch_size": 5}, "received 5: some would have none. Make it a multiple of 4"),  # 2 + 2 + 1 + 0
        ({"batch_size": 12, "accumulate": 2}, r"divisible by accumulate times the number of devices, 2 \* 4"),
        ({"jit": "on"}, "jit=on cannot compile a step of 4 devices"),
    ],
)
def test_settings_that_do_not_suit_several_devices_are_refused(devices, settings, message):
    devices(4)
    with pytest.raises(HarpError, match=message):
        Workers(RunConfig(distribute="mirrored", **settings))
