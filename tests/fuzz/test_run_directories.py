"""Whatever the files of a run directory hold, they are reported or the culprit is named."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from harp_tf import report
from harp_tf.config import RunConfig
from harp_tf.report import plots
from harp_tf.report.run import read_run
from harp_tf.run_dir import RunDirectory
from tests.fuzz.limits import amounts, fuzz, outcome, refused
from tests.fuzz.mutations import NUMBERS, altered, damaged, json_text

LAYERS = {"conv1/kernel": (144, 100), "block/conv2/kernel": (1843, 300), "logits/kernel": (128, 16)}
SECONDS = 60


def result(natural, robust) -> dict:
    check = {"check": "more_steps", "warning": "The attack finds more with more steps."}
    entry = {"eps": 0.1, "checks": [check], "stages": {"apgd_ce": 0.9, "square": robust}}
    return {
        "natural_accuracy": natural,
        "balanced_accuracy": natural,
        "robust_accuracy": {"pgd20": robust},
        "n_test": 360,
        "n_robust": 360,
        "sparsity": 0.5,
        "nonzero": 416,
        "parameters": 2115,
        "file_bytes": 11_000,
        "gzip_bytes": 9_000,
        "attacks": {"pgd20": [entry]},
        "security_curve": {"pgd20": {"eps": [0.0, 0.1], "robust_accuracy": [0.9, 0.1], "norm": "linf"}},
    }


def epoch(stage, number) -> dict:
    logs = {
        "loss": 1.5,
        "natural_accuracy": 0.5,
        "val_adversarial_accuracy": 0.4,
        "hw_loss": 3.0,
        "gamma": 0.01,
        "rate": 0.1,
    }
    return {"stage": stage, "epoch": number, "seconds": 2.5, "logs": logs, "rates": dict.fromkeys(LAYERS, 0.1)}


VALID = {
    "results.json": {name: result(0.9, 0.8) for name in ("dense", "pruned", "tflite", "tflite_sparse")},
    "rates.json": {
        "target_sparsity": 0.97,
        "granularity": "weight",
        "strategy": "uniform",
        "weights": 2115,
        "kept": 416,
        "budget": 595,
        "projected": True,
        "layers": {path: {"weights": n, "kept": k, "rate": k / n} for path, (n, k) in LAYERS.items()},
    },
    "config.json": {"flags": {"model": "cnn", "eps": 0.1, "norm": "linf", "augment": None}, "seed": 3},
}
EPOCHS = [epoch(stage, number) for stage in ("pretrain", "prune", "finetune") for number in (0, 1)]
CONTENT = {name: json.dumps(tree).encode() for name, tree in VALID.items()}
CONTENT["metrics.jsonl"] = b"".join(json.dumps(row).encode() + b"\n" for row in EPOCHS)


def written(folder, files=()) -> Path:
    for name, content in {**CONTENT, **dict(files)}.items():
        (folder / name).write_bytes(content)
    return folder


def used(run_dir) -> None:
    """All that is done with the files of a run, but for writing the pictures, which costs seconds."""
    run = read_run(run_dir)
    figures = plots.figures(run)
    for figure in figures.values():
        figure.draw_without_rendering()
    directory = RunDirectory(RunConfig(run_dir=str(run_dir)))
    results = directory.read_json("results.json")
    assert report.results_table(results) is not None and report.warnings(results) is not None
    directory.threat()


def test_the_valid_run_is_reported(folder):
    used(written(folder))
    assert report.write_report(folder).stat().st_size > 10_000


@amounts(6, 150)
def test_damaged_bytes(folder, examples):
    def holds(name, data):
        run_dir = written(folder, {name: data.draw(damaged(CONTENT[name]))})
        outcome(lambda: used(run_dir), SECONDS)

    fuzz(examples, holds, st.sampled_from(sorted(CONTENT)), st.data())


@amounts(6, 200)
def test_other_values(folder, examples):
    def holds(name, data):
        other = data.draw(altered(VALID[name], st.sampled_from(NUMBERS)))
        run_dir = written(folder, {name: json_text(other)})
        outcome(lambda: used(run_dir), SECONDS)

    fuzz(examples, holds, st.sampled_from(sorted(VALID)), st.data())


@amounts(4, 100)
def test_other_epochs(folder, examples):
    def holds(rows):
        lines = rows if isinstance(rows, list) else [rows]
        run_dir = written(folder, {"metrics.jsonl": b"\n".join(map(json_text, lines))})
        outcome(lambda: used(run_dir), SECONDS)

    fuzz(examples, holds, altered(EPOCHS, st.sampled_from(NUMBERS)))


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000 + b"\n1", b'{"a": 1, "a": 2}\n{}', b"null\n{}", b"\0\n\0"]
)
def test_no_json_at_all(folder, name, content):
    assert name in refused(lambda: used(written(folder, {name: content})))


@pytest.mark.parametrize("name", CONTENT)
def test_what_is_no_file(folder, name):
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        written(folder)
        (folder / name).unlink()
        make(folder / name)
        assert name in refused(lambda: used(folder))
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()
