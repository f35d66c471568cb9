"""The quickstart on two devices and in two processes ends as on one device; a lost worker costs nothing but time."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf  # noqa: F401  (its layers are in scored.keras)
from tests import workers
from tests.runs import read, untimed_metrics

pytestmark = pytest.mark.slow

FLAGS = (
    "--flagfile=flags/quickstart.flags",
    "--pretrain_epochs=1",
    "--prune_epochs=1",
    "--finetune_epochs=1",
    "--train_limit=352",  # 11 steps an epoch: workers may save after the tenth
    "--test_limit=60",
    "--attack_steps=3",
    "--eval_steps=2",
    "--sync_batch_norm",
)
TRAIN = ("-m", "harp_tf.train", *FLAGS)
TRAIN_TOGETHER = (*TRAIN, "--distribute=multi_worker")


@pytest.fixture(scope="module", autouse=True)
def sums_that_do_not_depend_on_the_batch():
    """oneDNN's kernels add up in another order for another number of images; then a sign of an attack's gradient may
    flip, a mask change, and from there on it is another training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        yield


@pytest.fixture(scope="module")
def alone(new_process, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "alone"
    ended = new_process(*TRAIN, f"--run_dir={run_dir}", seconds=900)
    assert ended.status == 0, ended.err[-3000:]
    return run_dir


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "together"
    logs = tmp_path_factory.mktemp("logs")
    statuses, errors = workers.outcome(2, [*TRAIN_TOGETHER, f"--run_dir={run_dir}"], logs, seconds=900)
    assert statuses == [0, 0], errors
    return run_dir, logs


def assert_same_run(one, other):
    for name in ("dense", "scored", "pruned"):
        models = [keras.models.load_model(folder / f"{name}.keras") for folder in (one, other)]
        for a, b in zip(models[0].variables, models[1].variables, strict=True):
            values = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
            np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5, err_msg=f"{name} {a.path}")
    for a, b in zip(untimed_metrics(one), untimed_metrics(other), strict=True):
        tf.nest.map_structure(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5) if x != y else None, a, b
        )
    for key, figures in read(one / "results.json").items():
        for what in ("natural_accuracy", "robust_accuracy", "nonzero", "sparsity"):
            assert read(other / "results.json")[key][what] == figures[what], (key, what)


def files_of(run_dir) -> set[str]:
    found = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("tensorboard", "."))}


def test_two_devices_end_as_one(alone, new_process, tmp_path):
    ended = new_process(*TRAIN, "--distribute=mirrored", "--devices=2", f"--run_dir={tmp_path / 'run'}", seconds=900)
    assert ended.status == 0, ended.err[-3000:]
    assert "WARNING: batch normalisation" not in ended.out
    assert_same_run(alone, tmp_path / "run")


def test_two_processes_end_as_one_device(alone, together):
    run_dir, logs = together
    assert_same_run(alone, run_dir)
    assert files_of(run_dir) == files_of(alone)
    assert "Report:" in (logs / "0.out").read_text()
    assert (logs / "1.out").read_text() == ""


def test_a_run_whose_worker_was_killed_goes_on_when_all_are_started_again(together, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [*TRAIN_TOGETHER, f"--run_dir={run_dir}", "--checkpoint_minutes=0"]
    with workers.running(2, arguments, tmp_path / "first") as processes:
        end = time.monotonic() + 400
        while not list(run_dir.glob("checkpoints/prune/epoch_0000_step_*/manifest.json")):
            assert time.monotonic() < end and processes[0].poll() is None, (tmp_path / "first" / "0.err").read_text()
            time.sleep(0.05)
        processes[1].kill()
        assert workers.wait(processes, 200)[0] == 2
    lost = (tmp_path / "first" / "0.err").read_text()
    assert "error: Another worker is gone" in lost and "Traceback" not in lost

    statuses, errors = workers.outcome(2, arguments, tmp_path / "second", seconds=900)
    assert statuses == [0, 0], errors
    said = (tmp_path / "second" / "0.out").read_text()
    assert "pretrain: finished before" in said and "goes on from its checkpoint" in said
    for name in ("dense.keras", "scored.keras", "pruned.keras", "rates.json", "results.json"):
        assert (run_dir / name).read_bytes() == (together[0] / name).read_bytes(), name
