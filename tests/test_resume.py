"""Runs that were killed go on with the same command, and end as if nothing had happened."""

import json
import signal

import keras
import pytest

from harp_tf import training
from harp_tf.pipeline import Run
from harp_tf.training import CheckpointStore
from harp_tf.types import HarpError
from tests.runs import contents, read, untimed_metrics

pytestmark = pytest.mark.usefixtures("no_plots")

RESULTS = ("dense.keras", "scored.keras", "pruned.keras", "rates.json", "results.json")
STAGES = ("prune", "finetune", "export", "evaluate")


class Killed(BaseException):
    """Like SIGKILL nobody catches it."""


@pytest.fixture
def kill(monkeypatch):
    """Ends the run at the n-th call of a function."""

    def patch(owner, name, number=1, before=True):
        original = getattr(owner, name)
        calls = []

        def stop(*args, **kwargs):
            calls.append(name)
            if before and len(calls) == number:
                raise Killed
            result = original(*args, **kwargs)
            if len(calls) == number:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, stop)
        return lambda: monkeypatch.setattr(owner, name, original)

    return patch


@pytest.fixture
def make(tiny, tmp_path):
    def run(name="run", **settings) -> Run:
        defaults = {"run_dir": str(tmp_path / name), "stages": STAGES, "checkpoint_minutes": 0.0}
        return tiny(**{**defaults, **settings})

    return run


def killed(run) -> None:
    with pytest.raises(Killed):
        run.run()


def outcome(run_dir) -> dict:
    files = {name: (run_dir / name).read_bytes() for name in (*RESULTS, "model.tflite", "model_sparse.tflite")}
    left = [str(path) for path in run_dir.rglob("*") if path.name.endswith(".tmp") or "checkpoint" in str(path)]
    return {**files, "metrics": untimed_metrics(run_dir), "left": left}


@pytest.fixture
def whole(make):
    run = make("whole")
    run.run()
    return outcome(run.dir)


@pytest.mark.slow
def test_killed_in_every_stage(make, kill, whole, lines):
    for owner, name, number in [
        (CheckpointStore, "save", 2),
        (Run, "_save_pruned", 1),  # between the training and its files
        (training.KeepBest, "on_test_end", 1),
        (Run, "export", 1),
        (Run, "evaluate", 1),
    ]:
        mend = kill(owner, name, number)
        killed(make())
        mend()
    run = make()
    run.run()
    assert outcome(run.dir) == whole
    assert any("prune goes on from its checkpoint after epoch 0 and 1 steps" in line for line in lines)
    assert sum("== prune: finished before ==" in line for line in lines) >= 3


@pytest.mark.slow
def test_killed_when_a_stage_has_written_its_files(make, kill, lines):
    """They are there already, and not yet on record."""
    expected = make("whole", stages=("prune",), prune_epochs=2)
    expected.run()
    mend = kill(Run, "_prune", before=False)
    killed(make(stages=("prune",), prune_epochs=2))
    mend()
    assert (expected.dir / "scored.keras").exists()
    run = make(stages=("prune",), prune_epochs=2)
    run.run()
    for name in ("dense.keras", "scored.keras", "pruned.keras", "rates.json"):
        assert (run.dir / name).read_bytes() == (expected.dir / name).read_bytes(), name
    assert untimed_metrics(run.dir) == untimed_metrics(expected.dir)
    assert any("after epoch 2 and 0 steps" in line for line in lines)


@pytest.mark.slow
def test_killed_in_the_second_of_two_parts(make, kill, lines):
    settings = {"stages": ("prune",), "granularity": "channel,weight", "channel_sparsity": 0.3, "channel_multiple": 1}
    settings |= {"prune_epochs": 2}
    expected = make("whole", **settings)
    expected.run()
    mend = kill(CheckpointStore, "save", 14)  # two epochs of four steps in the first part, and one in the second
    killed(make(**settings))
    mend()
    run = make(**settings)
    # The first part has to go back a step, and the second goes on where it was.
    last = run.dir / "checkpoints" / "prune_channels" / "epoch_0002_step_0000000_best"
    if not last.exists():
        last = last.with_name("epoch_0002_step_0000000")
    (last / "arrays.npz").unlink()
    run.run()
    for name in ("scored.keras", "pruned.keras", "rates.json", "rates_channel.json"):
        assert (run.dir / name).read_bytes() == (expected.dir / name).read_bytes(), name
    assert untimed_metrics(run.dir) == untimed_metrics(expected.dir)
    assert any("prune_channels goes on from its checkpoint after epoch 1 and 3 steps" in line for line in lines)
    assert any("prune goes on from its checkpoint after epoch 1 and 1 steps" in line for line in lines)


# What the record of a run decides, with a prune stage that trains nothing ------------------------------------------


@pytest.fixture
def quick(make, monkeypatch):
    """Makes runs of a prune stage that only writes a file, after the interruption that it is told; counts them."""
    done = []

    def run(interruption=None, **settings) -> Run:
        def prune(run):
            done.append(run)
            (run.dir / "rates.json").write_text('{"half": {}}')
            if interruption is not None:
                interruption()
            (run.dir / "scored.keras").write_text("whole")

        monkeypatch.setattr(Run, "_prune", prune)
        return make(**{"stages": ("prune",), **settings})

    run.done = done
    return run


def stop():
    raise Killed


def test_other_settings_are_refused_and_named(quick):
    killed(quick(stop))
    before = contents(quick().dir)
    with pytest.raises(HarpError) as error:
        quick(gamma=0.25, seed=3, skip=("last",))
    message = str(error.value)
    assert "holds an unfinished run of other settings: " in message and "--restart" in message
    assert "--seed was 0 and is 3; --gamma was 0.5 and is 0.25; --skip was empty and is last." in message
    assert contents(quick().dir) == before


def test_settings_that_decide_nothing_may_change(quick, tmp_path):
    killed(quick(stop))
    (tmp_path / "run").rename(tmp_path / "moved")
    run = quick(name="moved", checkpoint_minutes=5.0, checkpoint_keep=3, data_dir="elsewhere")
    run.run()
    config = read(run.dir / "config.json")
    assert config["flags"]["checkpoint_keep"] == 3 and set(config["finished"]) == {"prune"}


def test_restart_begins_anew(quick, tmp_path):
    killed(quick(stop))
    CheckpointStore(tmp_path / "run" / "checkpoints" / "prune").save(training.Position(1), {})
    killed(quick(stop, gamma=0.25, restart=True))
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert read(tmp_path / "run" / "config.json")["flags"]["gamma"] == 0.25
    quick(gamma=0.25).run()  # and goes on without it


def test_a_finished_run_says_so_and_trains_nothing(quick, lines):
    for _ in range(2):
        quick().run()
    assert len(quick.done) == 1
    assert "\nNothing is left to do of this run; --restart would train anew." in lines


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_file_of_a_finished_stage_has_the_stage_done_again(quick, damage, lines, tmp_path):
    quick().run()
    CheckpointStore(tmp_path / "run" / "checkpoints" / "prune").save(training.Position(1), {})  # killed right then
    damage(tmp_path / "run" / "scored.keras")
    quick().run()
    assert (tmp_path / "run" / "scored.keras").read_text() == "whole" and len(quick.done) == 2
    assert any("scored.keras is damaged or gone: the stage prune and what follows begin anew" in line for line in lines)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_files_of_an_unfinished_stage_are_not_taken_for_damaged_ones(quick, lines, monkeypatch, tmp_path):
    """finetune writes pruned.keras anew, and may be killed before that is on record."""

    def finetune(run):
        (run.dir / "scored.keras").exists()
        (run.dir / "pruned.keras").write_text("finetuned")
        if len(lines) < 5:
            raise Killed

    monkeypatch.setattr(Run, "_finetune", finetune)
    monkeypatch.setattr(Run, "_model_for", lambda run, stage: None)
    monkeypatch.setattr(Run, "_check_network", lambda run: None)
    killed(quick(lambda: (tmp_path / "run" / "pruned.keras").write_text("pruned"), stages=("prune", "finetune")))
    lines.extend("....")
    quick(stages=("prune", "finetune")).run()
    assert len(quick.done) == 1 and not any("damaged" in line for line in lines)
    record = read(tmp_path / "run" / "config.json")["finished"]
    assert record["prune"]["pruned.keras"] != record["finetune"]["pruned.keras"]


def test_two_processes_do_not_write_into_one_directory(quick):
    other = quick()

    def meanwhile():
        for start in (other.run, quick):
            with pytest.raises(HarpError, match="Another process is writing into .*has ended"):
                start()

    quick(meanwhile).run()


def test_leftovers_of_a_killed_process_are_removed(quick):
    run = quick()
    (run.dir / f".scored.keras.{'0' * 32}.tmp").write_bytes(b"half")
    run.run()
    assert not list(run.dir.rglob("*.tmp"))


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_between_trainings_ends_at_once(quick, number, status, lines):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        quick(lambda: signal.raise_signal(number)).run()
    assert ended.value.code == status and signal.getsignal(number) == before
    name = signal.Signals(number).name
    assert f"\n{name}: stopped in prune, between two trainings. The same command, no --restart, goes on." in lines


def test_a_signal_in_training_is_saved(make, lines, monkeypatch):
    class Terminate(keras.callbacks.Callback):
        def __init__(self, *args):
            super().__init__()

        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                signal.raise_signal(signal.SIGTERM)

    before = training.StopOnNaN
    monkeypatch.setattr(training, "StopOnNaN", Terminate)
    with pytest.raises(SystemExit):
        make(stages=("prune",), checkpoint_minutes=10.0).run()
    monkeypatch.setattr(training, "StopOnNaN", before)
    assert "SIGTERM: stopped in prune, after epoch 0, step 1." in lines[-1]
    make(stages=("prune",), checkpoint_minutes=10.0).run()
    assert any("prune goes on from its checkpoint after epoch 0 and 1 steps" in line for line in lines)


def test_metrics_are_brought_back_to_what_they_were(make):
    run = make()
    entries = [("pretrain", 0), ("pretrain", 1), ("prune_channels", 0), ("prune", 0), ("prune", 1), ("finetune", 0)]
    whole = [json.dumps({"stage": stage, "epoch": epoch}) + "\n" for stage, epoch in entries]
    metrics = run.dir / "metrics.jsonl"
    for name, kept in [("finetune", 5), ("prune", 3), ("prune_channels", 2), ("pretrain", 0)]:
        metrics.write_text("".join(whole) + '{"stage": "pretrain", "ep')
        run.directory.restore_metrics(name, b"lines\n")
        assert metrics.read_text() == "".join(whole[:kept]) + "lines\n"
