"""The directory of a run: what an earlier run left, and what a new one may remove."""

import json
import os
import shutil

import numpy as np
import pytest

from harp_tf.config import RunConfig
from harp_tf.pipeline import Run
from harp_tf.run_dir import RunDirectory
from harp_tf.types import HarpError
from tests.runs import contents, read

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def idle(monkeypatch):
    """Training that does nothing, for what happens before it."""
    for stage in ("_pretrain", "_prune", "_finetune"):
        monkeypatch.setattr(Run, stage, lambda self: None)


@pytest.mark.parametrize("stages", [["--stages=pretrain"], ["--stages=prune"], ["--stages=finetune"], []])
def test_an_earlier_run_is_not_touched_without_restart(program, copy, small_flags, stages):
    before = contents(copy)
    line = program("train", f"--flagfile={small_flags}", f"--run_dir={copy}", "--gamma=0.2", *stages).error
    assert "holds an earlier run of other settings: " in line and "--restart" in line and str(copy) in line
    assert "--gamma was 0.3 and is 0.2" in line
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json", "dense.keras", "plots/loss.png"])
def test_any_file_of_a_run_makes_it_an_earlier_run(tiny, tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(HarpError, match="holds an earlier run .*--restart"):
        tiny()


def test_files_of_others_do_not(tiny, idle, tmp_path):
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    tiny().run()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_restart_removes_only_what_a_run_wrote(tiny, idle, copy):
    foreign = {"notes.txt": "a", "plots/mine.txt": "b", "tensorboard/pretrain/deeper/mine": "c", "dense.keras.bak": "d"}
    for name, text in foreign.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    tiny(run_dir=str(copy), restart=True).run()
    assert set(contents(copy)) == {*foreign, "config.json", "report.html"}
    assert all((copy / name).read_text() == text for name, text in foreign.items())
    assert read(copy / "config.json")["flags"]["init_from"].endswith("tiny.keras")


@pytest.mark.parametrize(
    "first, removed, stages_left",
    [
        ("prune", {"scored.keras", "rates.json", "pruned.keras", "model_sparse.tflite", "results.json"}, ["pretrain"]),
        ("finetune", {"model_sparse.tflite", "results.json"}, ["pretrain", "prune"]),
    ],
)
def test_restart_of_a_later_stage_keeps_what_it_builds_upon(tiny, idle, copy, first, removed, stages_left):
    before = contents(copy)
    tiny(run_dir=str(copy), init_from=None, stages=(first,), restart=True, train_limit=256).run()
    after = contents(copy)
    gone = {name for name in set(before) - set(after) if not name.startswith("tensorboard")}
    assert gone == removed
    assert after["dense.keras"] == before["dense.keras"] and after["model.tflite"] == before["model.tflite"]
    assert {name.split("/")[1] for name in after if name.startswith("tensorboard")} == set(stages_left)
    kept = [line for line in before["metrics.jsonl"].splitlines() if json.loads(line)["stage"] in stages_left]
    assert after["metrics.jsonl"].splitlines() == kept


def test_a_half_line_of_a_killed_run_is_dropped(tiny, idle, copy):
    for name in ("results.json", "model_sparse.tflite"):
        (copy / name).unlink()
    shutil.rmtree(copy / "tensorboard" / "finetune")
    whole = (copy / "metrics.jsonl").read_bytes()
    pruned = b"".join(line for line in whole.splitlines(keepends=True) if b'"finetune"' not in line)
    (copy / "metrics.jsonl").write_bytes(pruned + b'{"stage": "finetune", "ep')
    tiny(run_dir=str(copy), init_from=None, stages=("finetune",)).run()
    assert (copy / "metrics.jsonl").read_bytes() == pruned


@pytest.mark.parametrize("stage, name", [("prune", "dense.keras"), ("finetune", "scored.keras")])
def test_restart_does_not_remove_what_the_run_starts_from(tiny, idle, copy, stage, name):
    before = contents(copy)
    for origin in (copy, copy / name, os.path.relpath(copy / name)):
        with pytest.raises(HarpError, match=f"--restart would remove .*{name}.*leave out --init_from"):
            tiny(run_dir=str(copy), init_from=str(origin), stages=(stage,), restart=True)
    assert contents(copy) == before


def test_a_mistake_is_found_before_restart_removes_anything(tiny, copy):
    before = contents(copy)
    for mistake in ({"batch_size": 10_000}, {"dataset": "npz:none.npz"}, {"strategy": "none.json"}, {"model": "none"}):
        with pytest.raises(HarpError):
            tiny(run_dir=str(copy), **{"init_from": None, "stages": ("pretrain", "prune"), **mistake}, restart=True)
    assert contents(copy) == before


def test_a_run_that_goes_on_elsewhere_says_what_is_different(tiny, idle, copy, lines, monkeypatch):
    (copy / "results.json").unlink()
    content = json.loads((copy / "config.json").read_text())
    content["versions"]["tensorflow"], content["machine"]["cores"] = "2.0.0", 1000
    content["finished"] = {stage: {} for stage in content["finished"] if stage != "evaluate"}
    (copy / "config.json").write_text(json.dumps(content))
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    RunDirectory(RunConfig(**{**_settings(content["flags"]), "run_dir": str(copy)}), lines.append).prepare({})
    (line,) = [line for line in lines if "began elsewhere" in line]
    assert "tensorflow was 2.0.0 and is 2." in line and "cores was 1000" in line
    assert "TF_NUM_INTRAOP_THREADS was not set and is 7" in line and "keras" not in line
    lines.clear()
    RunDirectory(RunConfig(**{**_settings(content["flags"]), "run_dir": str(copy)}), lines.append).prepare({})
    assert not any("began elsewhere" in line for line in lines)  # said once: the record tells of what is now


DATA = {split: {"images": 10, "sha256": "a"} for split in ("train", "validation", "test")}


@pytest.mark.parametrize("split", list(DATA))
def test_a_run_does_not_go_on_with_other_images(copy, split):
    content = json.loads((copy / "config.json").read_text())
    content["data"] = DATA
    content["finished"].pop("evaluate")
    (copy / "config.json").write_text(json.dumps(content))
    directory = RunDirectory(RunConfig(**{**_settings(content["flags"]), "run_dir": str(copy)}), print)
    before = contents(copy)
    other = {**DATA, split: {"images": 11, "sha256": "b"}}
    with pytest.raises(HarpError, match=rf"begun with other images than --dataset=digits .*\({split}\).*--restart"):
        directory.prepare(other)
    assert contents(copy) == before
    directory.prepare(DATA)
    assert read(copy / "config.json")["data"] == DATA


def test_what_has_changed_since_is_no_matter_of_a_finished_run_or_of_an_earlier_record(copy):
    content = json.loads((copy / "config.json").read_text())
    directory = RunDirectory(RunConfig(**{**_settings(content["flags"]), "run_dir": str(copy)}), print)
    assert directory.prepare(DATA) == list(content["flags"]["stages"])
    del content["data"]
    content["finished"].pop("evaluate")
    (copy / "config.json").write_text(json.dumps(content))
    directory.prepare(DATA)
    assert read(copy / "config.json")["data"] == DATA


def test_images_that_change_while_a_run_rests_are_noticed(tiny, idle, tmp_path, monkeypatch):
    images, labels = np.random.default_rng(0).random((80, 8, 8, 1), np.float32), np.arange(80) % 10
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    settings = {"dataset": f"npz:{tmp_path / 'mine.npz'}", "train_limit": None}
    np.savez(tmp_path / "mine.npz", **arrays)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_prune", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny(**settings).run()
    np.savez(tmp_path / "mine.npz", **{**arrays, "y_train": labels[::-1]})
    with pytest.raises(HarpError, match=r"begun with other images .*\(train, validation\)"):
        tiny(**settings).run()
    np.savez(tmp_path / "mine.npz", **arrays)
    tiny(**settings).run()


def test_who_begins_with_a_run_of_another_cut_is_told(copy, tmp_path, lines):
    content = json.loads((copy / "config.json").read_text())
    content["data"] = DATA
    (copy / "config.json").write_text(json.dumps(content))
    directory = RunDirectory(RunConfig(init_from=str(copy), run_dir=str(tmp_path / "new")), lines.append)
    directory.warn_of_other_cut(DATA)
    RunDirectory(RunConfig(init_from=str(copy), dataset="npz:other.npz"), lines.append).warn_of_other_cut({})
    RunDirectory(RunConfig(init_from=str(copy / "dense.keras")), lines.append).warn_of_other_cut({})
    assert lines == []
    directory.warn_of_other_cut({**DATA, "validation": {"images": 10, "sha256": "b"}})
    (line,) = lines
    assert "had other images (validation)" in line and f"--data_seed={content['flags']['seed']}." in line


def test_who_measures_a_run_on_other_images_is_told(copy, lines):
    content = json.loads((copy / "config.json").read_text())
    content["data"] = DATA
    (copy / "config.json").write_text(json.dumps(content))
    settings = {**_settings(content["flags"]), "run_dir": str(copy), "stages": ("evaluate",)}
    RunDirectory(RunConfig(**settings), lines.append).warn_of_other_data(DATA)
    other = {**DATA, "test": {"images": 11, "sha256": "b"}}
    RunDirectory(RunConfig(**{**settings, "test_limit": 7}), lines.append).warn_of_other_data(other)
    assert lines == []  # others were asked for
    RunDirectory(RunConfig(**settings), lines.append).warn_of_other_data(other)
    (line,) = lines
    assert line.startswith("WARNING: the images of --dataset=digits (test) are not those") and str(copy) in line


def _settings(flags: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}


@pytest.mark.slow
def test_a_network_whose_numbers_are_no_numbers_stops(tiny):
    run = tiny(prune_learning_rate=1e30, loss="natural", prune_epochs=2)
    with pytest.raises(HarpError, match="loss became (nan|inf).*between steps"):
        run.run()
