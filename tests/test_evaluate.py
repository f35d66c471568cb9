"""`evaluate` on its own: of a run directory and of files."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
from keras import layers as keras_layers

from harp_tf.attacks import State
from harp_tf.measure import Measurement
from harp_tf.report import theme
from harp_tf.types import HarpError
from tests.runs import contents, read

pytestmark = pytest.mark.usefixtures("no_plots")


def test_evaluate_adds_an_attack_and_loses_none(program, copy):
    before = contents(copy)
    old = read(copy / "results.json")
    ended = program("evaluate", f"--target={copy}", "--eval_steps=2", "--robust_limit=40")
    assert ended.status == 0, ended.err
    new = read(copy / "results.json")
    assert list(new) == list(old)
    for key in old:
        assert new[key]["robust_accuracy"]["pgd3"] == old[key]["robust_accuracy"]["pgd3"]
        assert set(new[key]["robust_accuracy"]) == {"pgd2", "pgd3"}
        assert new[key]["n_robust"] == 40
        same = set(old[key]) - {"robust_accuracy", "n_robust", "attacks"}
        assert {name: new[key][name] for name in same} == {name: old[key][name] for name in same}
    after = contents(copy)
    changed = {name for name in before if before[name] != after[name]}
    # The last one has the checksums of what the stages left.
    assert changed == {"results.json", "report.html", "plots/adversarial_examples.png", "config.json"}
    assert read(copy / "config.json")["flags"] == json.loads(before["config.json"])["flags"]
    assert "PGD-2" in ended.out and "PGD-3" in ended.out and "pruned (.tflite)" in ended.out


@pytest.mark.slow
def test_evaluate_again_gives_the_same_figures_and_never_restarts(program, copy):
    config = read(copy / "config.json")
    config["flags"]["restart"] = True  # as after `train --restart`
    (copy / "config.json").write_text(json.dumps(config))
    before = contents(copy)
    (copy / "results.json").unlink()
    assert program("evaluate", f"--target={copy}").status == 0
    after = contents(copy)
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} <= {"report.html", "config.json"}
    assert read(copy / "config.json")["flags"] == config["flags"]


@pytest.mark.parametrize("name", ["scored", pytest.param("dense", marks=pytest.mark.slow)])
def test_evaluate_a_file(program, small_run, tmp_path, name):
    path = shutil.copy(small_run[0] / f"{name}.keras", tmp_path)
    flags = ["--test_limit=100", "--eps=0.1", "--eval_steps=3", "--train_limit=256", "--seed=7"]
    ended = program("evaluate", f"--target={path}", *flags)
    assert ended.status == 0, ended.err
    assert f"{path} on digits, linf, eps 0.1 " in ended.out
    assert os.listdir(tmp_path) == [f"{name}.keras"]
    if name != "scored":  # whose weights are those before finetuning
        figures = read(small_run[0] / "results.json")[name]
        assert f"{100 * figures['natural_accuracy']:.1f}" in ended.out
        assert f"{100 * figures['robust_accuracy']['pgd3']:.1f}" in ended.out
    assert ("95." in ended.out) == (name != "dense")


@pytest.mark.slow
def test_an_evaluation_at_other_radii_leaves_the_figures_of_the_runs_own(program, copy):
    old = read(copy / "results.json")
    ended = program("evaluate", f"--target={copy}", "--eps_list=0.02,0.2", "--eps=0.3")
    assert ended.status == 0, ended.err
    new = read(copy / "results.json")
    for key in old:
        for name in ("robust_accuracy", "n_robust", "natural_accuracy"):
            assert new[key][name] == old[key][name]
        entries = new[key]["attacks"]["pgd3"]
        assert [(e["eps"], e["n"]) for e in entries] == [(0.1, 100), (0.02, 100), (0.2, 100)]
        curve = new[key]["security_curve"]["pgd3"]
        assert curve["eps"] == [0.0, 0.02, 0.1, 0.2]
        assert curve["robust_accuracy"][2] == old[key]["robust_accuracy"]["pgd3"]
        assert curve["robust_accuracy"][0] == old[key]["natural_accuracy"]
        assert curve["robust_accuracy"][1] >= curve["robust_accuracy"][3]
    assert not (copy / "evaluation").exists()


def test_attacks_by_name_join_the_results_and_every_image_is_kept_on_request(program, copy, tmp_path):
    folder = tmp_path / "kept"
    flags = ["--attacks=apgd-ce3+square10,fmn5", "--robust_limit=30", f"--save_adversarial={folder}"]
    ended = program("evaluate", f"--target={copy}", *flags)
    assert ended.status == 0, ended.err
    for key, figures in read(copy / "results.json").items():
        assert list(figures["robust_accuracy"]) == ["pgd3", "apgd_ce3+square10", "fmn5"]
        (cascade,), (fmn,) = figures["attacks"]["apgd_ce3+square10"], figures["attacks"]["fmn5"]
        assert list(cascade["stages"]) == ["apgd_ce3", "square10"]
        assert cascade["stages"]["square10"] == cascade["robust_accuracy"] <= cascade["stages"]["apgd_ce3"]
        assert cascade["n"] == fmn["n"] == 30 and cascade["ci95"][0] < cascade["robust_accuracy"] < cascade["ci95"][1]
        assert "too_few_samples" in [check["check"] for check in cascade["checks"]]
        assert ("curve" in fmn) == (key in ("dense", "pruned"))
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{m}_{a}_linf_0.1.npz" for m in ("dense", "pruned") for a in ("apgd_ce3+square10", "fmn5")}
    with np.load(folder / "pruned_apgd_ce3+square10_linf_0.1.npz", allow_pickle=False) as file:
        assert file["images"].shape == file["adversarial"].shape == (30, 8, 8, 1)
        assert 0 < np.abs(file["adversarial"] - file["images"]).max() <= 0.1 + 1e-6
    assert "WARNING (too_few_samples)" in ended.out and "APGD-CE-3 + Square-10" in ended.out


@pytest.mark.slow
def test_an_evaluation_that_was_interrupted_goes_on(program, copy, monkeypatch):
    flags = [f"--target={copy}", "--attacks=square20", "--robust_limit=40"]
    monkeypatch.setattr("harp_tf.measure._BATCH", 16)
    original, calls = State.save, []

    def save(state, number, record):
        original(state, number, record)
        calls.append(number)
        if len(calls) == 2:
            raise HarpError("as if killed")

    monkeypatch.setattr(State, "save", save)
    before = read(copy / "results.json")
    assert "as if killed" in program("evaluate", *flags).error
    assert read(copy / "results.json") == before
    ended = program("evaluate", *flags)
    assert ended.status == 0 and "goes on after 2 batches" in ended.out
    resumed = read(copy / "results.json")
    assert calls[:3] == [0, 1, 2]
    (copy / "results.json").write_text(json.dumps(before))
    assert program("evaluate", *flags).status == 0
    assert read(copy / "results.json") == resumed


def test_a_tflite_file_is_attacked_without_gradients_and_by_its_twins_images(program, small_run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(theme, "save", lambda figures, folder: drawn.extend((folder, name) for name in figures))
    data = ["--test_limit=60", "--eps=0.1", "--train_limit=256", "--seed=7"]
    alone = shutil.copy(small_run[0] / "model.tflite", tmp_path / "alone.tflite")
    radii = "--eps_list=0.1,0.05"
    output = f"--output={tmp_path}/f.json"
    ended = program("evaluate", f"--target={alone}", "--attacks=pgd3,square20", *data, radii, output)
    assert ended.status == 0, ended.err
    assert {*os.listdir(tmp_path)} == {"alone.tflite", "f.json", "f_examples.png"}
    assert drawn == [(tmp_path, "f_security_curve")]
    assert "of pgd3, square20 only square20 can attack it" in ended.out
    figures = read(tmp_path / "f.json")["alone"]
    assert list(figures["robust_accuracy"]) == ["square20"]
    assert figures["robust_accuracy"]["square20"] <= figures["natural_accuracy"]
    assert "cannot attack it" in program("evaluate", f"--target={alone}", "--attacks=pgd3", *data).error
    # Beside its Keras twin, and joined to what is there.
    shutil.copy(small_run[0] / "dense.keras", tmp_path / "alone.keras")
    ended = program("evaluate", f"--target={alone}", "--attacks=pgd3,square30", *data, output)
    assert ended.status == 0, ended.err
    both = read(tmp_path / "f.json")["alone"]
    assert set(both["robust_accuracy"]) == {"pgd3", "square20", "square30"}
    assert both["attacks"]["pgd3"][0]["crafted_on"] == "alone.keras"
    assert "crafted_on" not in both["attacks"]["square30"][0]
    assert both["robust_accuracy"]["square20"] == figures["robust_accuracy"]["square20"]


def test_figures_of_another_file_are_never_mixed(program, copy, small_run, tmp_path):
    """A model that was trained on has the same name; a file of the same name is another one."""
    results = read(copy / "results.json")
    results["pruned"]["sha256"] = "of the model before it was finetuned"
    results["pruned"]["robust_accuracy"]["square7"] = 0.99
    (copy / "results.json").write_text(json.dumps(results))
    config = read(copy / "config.json")
    del config["finished"]["finetune"]
    (copy / "config.json").write_text(json.dumps(config))
    ended = program("evaluate", f"--target={copy}", "--eval_steps=2", "--robust_limit=20")
    assert ended.status == 0, ended.err
    assert "pruned: the file is another one than was measured earlier" in ended.out
    assert "WARNING: the run in" in ended.out and "has not finished finetune. Its model may change" in ended.out
    new = read(copy / "results.json")
    assert set(new["pruned"]["robust_accuracy"]) == {"pgd2"} and set(new["dense"]["robust_accuracy"]) == {
        "pgd2",
        "pgd3",
    }
    output = tmp_path / "all.json"
    output.write_text(json.dumps({"dense": {**results["dense"], "sha256": "of another dense.keras"}}))
    message = program("evaluate", f"--target={copy / 'dense.keras'}", f"--output={output}", "--test_limit=20").error
    assert "holds figures of another file as 'dense'. Choose another --output." in message


def test_what_an_evaluation_cannot_use_is_refused(program, copy, tmp_path):
    before = contents(copy)
    assert "Unknown attack 'deepfool'" in program("evaluate", f"--target={copy}", "--attacks=deepfool").error
    assert "eps_list must be radii" in program("evaluate", f"--target={copy}", "--eps_list=0.1,big").error
    assert "eps_list must be at most 1" in program("evaluate", f"--target={copy}", "--eps_list=8").error
    assert "results.json" in program("evaluate", f"--target={copy}", "--output=x.json").error
    assert contents(copy) == before
    (tmp_path / "other.json").write_text('{"a": 1}')
    line = program("evaluate", f"--target={copy / 'dense.keras'}", f"--output={tmp_path / 'other.json'}").error
    assert "does not hold figures of earlier evaluations" in line
    assert (tmp_path / "other.json").read_text() == '{"a": 1}'


def test_evaluate_a_file_that_is_no_model_for_these_images(program, tmp_path):
    (tmp_path / "a.keras").write_bytes(b"no")
    assert "could not be read as a Keras 3 model" in program("evaluate", f"--target={tmp_path / 'a.keras'}").error
    other = keras.Sequential([keras.Input((4, 4, 3)), keras_layers.Flatten(), keras_layers.Dense(10)])
    other.save(tmp_path / "b.keras")
    assert "the data set has images of shape" in program("evaluate", f"--target={tmp_path / 'b.keras'}").error


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", '{"dense": 1}', '{"dense": {}}', '{"dense": {"robust_accuracy": 1}}', "[" * 100_000]
)
def test_damaged_results_are_not_lost(program, copy, monkeypatch, content):
    monkeypatch.setattr(Measurement, "of_keras", lambda *args: pytest.fail("found only after the evaluation"))
    (copy / "results.json").write_text(content)
    before = contents(copy)
    line = program("evaluate", f"--target={copy}").error
    assert str(copy / "results.json") in line and "Remove" in line
    assert contents(copy) == before
