"""The same flags and seed give the same bytes, in another process, and stage by stage as in one go."""

import json
import shutil

import pytest

from tests.runs import untimed_metrics

STAGES = ("pretrain", "prune", "finetune", "export", "evaluate")
MODELS = ["dense.keras", "scored.keras", "pruned.keras", "model.tflite", "model_sparse.tflite"]


@pytest.mark.slow
def test_stage_by_stage_in_this_process_equals_one_go_in_another(program, small_run, small_flags, tmp_path, no_plots):
    run_dir = tmp_path / "run"
    for stage in STAGES:
        ended = program("train", f"--flagfile={small_flags}", f"--run_dir={run_dir}", f"--stages={stage}")
        assert ended.status == 0, ended.err
        assert f"== {stage} ==" in ended.out and ended.out.count("\n== ") == 1
    for name in ["rates.json", "results.json", *MODELS]:
        assert (run_dir / name).read_bytes() == (small_run[0] / name).read_bytes(), name
    assert untimed_metrics(run_dir) == untimed_metrics(small_run[0])
    settings = [json.loads((path / "config.json").read_text())["flags"] for path in (run_dir, small_run[0])]
    assert {key for key in settings[0] if settings[0][key] != settings[1][key]} == {"run_dir", "stages"}


@pytest.mark.slow
def test_finetune_again_starts_from_the_pruned_model_not_from_the_finetuned(
    program, small_run, small_flags, tmp_path, no_plots
):
    run_dir = tmp_path / "run"
    shutil.copytree(small_run[0], run_dir)
    (run_dir / "pruned.keras").write_bytes(b"to be written anew")
    flags = [f"--flagfile={small_flags}", f"--run_dir={run_dir}", "--stages=finetune"]
    assert "holds an earlier run" in program("train", *flags).error
    ended = program("train", *flags, "--restart")
    assert ended.status == 0, ended.err
    for name in ("dense.keras", "scored.keras", "pruned.keras", "rates.json", "model.tflite"):
        assert (run_dir / name).read_bytes() == (small_run[0] / name).read_bytes(), name
    assert untimed_metrics(run_dir) == untimed_metrics(small_run[0])
    # They told of the model that is no more.
    assert not (run_dir / "model_sparse.tflite").exists() and not (run_dir / "results.json").exists()
