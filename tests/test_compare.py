"""python -m harp_tf.compare, its cells made by a stand-in where nothing else is said."""

import json

import keras
import numpy as np
import pytest

from harp_tf import comparison, report
from tests.comparison.conftest import StandIn
from tests.runs import TINY_MODULE, WEIGHTS, read


@pytest.fixture
def stand_in(monkeypatch):
    made, init = StandIn(), comparison.Comparison.__init__
    monkeypatch.setattr(comparison.Comparison, "__init__", lambda *args, **others: init(*args, execute=made, **others))
    monkeypatch.setattr(report, "write_comparison", lambda directory: directory / "comparison.html")
    return made


@pytest.fixture
def compare(program, tmp_path):
    def run(*arguments):
        return program("compare", f"--run_dir={tmp_path / 'compared'}", "--pretrain_epochs=1", "--eps=0.1", *arguments)

    return run


def test_all_methods_and_the_control_at_the_sparsity_of_a_run(compare, stand_in, tmp_path):
    ended = compare("--target_sparsity=0.8", "--seed=3", "--prune_epochs=1", "--finetune_epochs=1")
    assert ended.status == 0, ended.err
    assert "HARP 83.0 % leads, 10.0 points" in ended.out
    cells = read(tmp_path / "compared" / "comparison.json")["cells"]
    names = [f"{method}_80_pgd_seed3" for method in comparison.CHOICES if method != "dense_control"]
    assert [cell["name"] for cell in cells] == ["dense_pgd", "dense_control_pgd_seed3", *names]
    assert all("--data_seed=3" in cell["command"] for cell in cells)


def test_axes_are_lists(compare, stand_in, tmp_path):
    ended = compare("--methods=harp", "--sparsities=0.9,0.99", "--losses=pgd,mart", "--seeds=1,2", "--prune_epochs=1")
    assert ended.status == 0, ended.err
    assert len(stand_in.cells) == 2 * (1 + 2 * 2)


def test_the_exit_status_tells_of_failed_cells(compare, stand_in):
    stand_in.broken = {"harp_99_pgd_seed0"}
    ended = compare("--methods=harp,lwm", "--prune_epochs=1")
    assert ended.status == 1 and "FAILED harp_99_pgd_seed0: the model has no logits" in ended.out


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--method=lwm", "--method is for single runs, and this is a comparison. Choose with --methods."),
        ("--restart", "Remove the directory of the comparison, or of single cells"),
        ("--stages=prune", "A comparison runs the stages that it needs."),
        ("--methods=harp,magic", "received magic"),
        ("--losses=pgd,magic", "'magic'"),
        ("--sparsities=1.5", "target_sparsity must be a number strictly between 0 and 1"),
    ],
)
def test_mistakes(compare, stand_in, argument, message):
    assert message in compare(argument).error
    assert stand_in.calls == []


def test_seeds_do_not_move_the_validation_images(tiny):
    def images(**settings):
        return tiny(**settings).data.validation.arrays()[0]

    assert np.array_equal(images(seed=1, data_seed=0), images(seed=0))
    assert not np.array_equal(images(seed=1), images(seed=0))


def test_a_dense_model_that_is_not_measured_still_counts(tiny, tiny_file, tmp_path):
    run = tiny(measure_dense=False, stages=("evaluate",), init_from=None, run_dir=str(tmp_path))
    model = keras.models.load_model(tiny_file)
    model.save(tmp_path / "dense.keras")
    assert set(run.plain_models()) == {"dense"}  # else nothing would be left to measure
    model.get_layer("last").kernel.assign(keras.ops.zeros((256, 10)))
    model.save(tmp_path / "pruned.keras")
    assert set(run.plain_models()) == {"pruned"}
    run.evaluate()
    results = read(tmp_path / "results.json")
    assert set(results) == {"pruned"} and results["pruned"]["sparsity"] == pytest.approx(2560 / WEIGHTS)


@pytest.mark.slow
def test_cells_are_what_their_commands_make(new_process, tmp_path):
    """The real thing: two cells beside their dense model, interrupted between them, and one made again by itself."""
    (tmp_path / "tiny_of_a_user.py").write_text(TINY_MODULE)
    common = [
        "--model=tiny_of_a_user:build", "--train_limit=128", "--test_limit=60", "--eps=0.1", "--attack_steps=1",
        "--batch_size=32", "--pretrain_epochs=1", "--prune_epochs=1", "--finetune_epochs=1", "--eval_steps=2",
        "--target_sparsity=0.8", "--gamma=0.5", "--run_dir=compared",
    ]  # fmt: skip

    def compare(*arguments):
        return new_process("-m", "harp_tf.compare", *common, *arguments, cwd=tmp_path)

    ended = compare("--methods=lwm")
    assert ended.status == 0, ended.out + ended.err
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "compared" / "cells").glob("*/*.keras")}
    ended = compare("--methods=lwm,harp")
    assert ended.status == 0 and "2 of them finished earlier" in ended.out, ended.out + ended.err
    assert {path: path.stat().st_mtime_ns for path in before} == before

    record = read(tmp_path / "compared" / "comparison.json")
    dense, _, harp = record["cells"]
    assert (tmp_path / "compared" / "comparison.html").stat().st_size > 10_000
    assert harp["figures"]["kept"] <= 0.2 * harp["figures"]["weights"] + 1e-6
    assert harp["figures"]["epochs"] == {"prune": 1, "finetune": 1} and dense["figures"]["epochs"] == {"pretrain": 1}

    cell = tmp_path / "compared" / "cells" / harp["name"]
    results = json.loads((cell / "results.json").read_text())
    assert set(results) == {"pruned", "tflite_sparse"}  # the dense model is measured once, in its own cell
    cell.rename(tmp_path / "before")
    again = new_process(*harp["command"].split()[1:], cwd=tmp_path)
    assert again.status == 0, again.err
    assert json.loads((cell / "results.json").read_text()) == results
