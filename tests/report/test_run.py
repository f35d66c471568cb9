import json

import pytest

from harp_tf.report.run import read_run
from harp_tf.types import HarpError


def test_reads_stages_in_the_order_they_ran(run_dir):
    run = read_run(run_dir)
    assert {stage: len(epochs) for stage, epochs in run.stages.items()} == {
        "pretrain": 4,
        "prune": 3,
        "finetune": 1,
    }
    assert list(run.stages) == ["pretrain", "prune", "finetune"]
    assert run.config["seed"] == 3 and run.rates["budget"] == 595 and run.results["tflite_sparse"]["nonzero"] == 560


def test_an_empty_folder_is_an_empty_run(tmp_path):
    run = read_run(tmp_path)
    assert (run.config, run.stages, run.rates, run.results) == ({}, {}, {}, {})


def test_a_repeated_epoch_replaces_its_first_try(run_dir):
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": "prune", "epoch": 1, "logs": {"loss": 42.0}}) + "\n")
    losses = [epoch["logs"]["loss"] for epoch in read_run(run_dir).stages["prune"]]
    assert losses == [1.5, 42.0, 0.5]


def test_half_a_line_at_the_end_is_a_killed_run(run_dir):
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "finetune", "epo')
    assert len(read_run(run_dir).stages["finetune"]) == 1


def test_a_broken_line_in_the_middle_is_named(run_dir):
    path = run_dir / "metrics.jsonl"
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(HarpError, match=r"Line 1 of .*metrics\.jsonl"):
        read_run(run_dir)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[1]", "JSON object.*list")])
def test_a_broken_file_is_named(run_dir, text, message):
    (run_dir / "rates.json").write_text(text)
    with pytest.raises(HarpError, match=f"rates.json.*{message}|{message}") as caught:
        read_run(run_dir)
    assert "rates.json" in str(caught.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(HarpError, match="run directory.*nowhere"):
        read_run(tmp_path / "nowhere")
