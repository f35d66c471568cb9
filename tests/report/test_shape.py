import json
from pathlib import Path

import pytest

from harp_tf.report import shape
from harp_tf.report.run import read_run
from harp_tf.types import HarpError

FILE = Path("results.json")


def test_what_is_missing_null_or_unknown_is_accepted():
    shape.check(FILE, {}, shape.RESULTS)
    shape.check(FILE, {"dense": {"natural_accuracy": None, "of_a_later_version": [1]}}, shape.RESULTS)
    shape.check(FILE, {"stage": "prune", "epoch": 0, "logs": {"loss": float("nan")}}, shape.EPOCH)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ([], shape.RESULTS, r"results.json must be an object, received \[\]"),
        ({"dense": 3}, shape.RESULTS, "'dense' must be an object, received 3"),
        ({"dense": {"natural_accuracy": 1.5}}, shape.RESULTS, "'dense.natural_accuracy' must be a number from 0 to 1"),
        ({"dense": {"natural_accuracy": True}}, shape.RESULTS, "received True"),
        ({"dense": {"robust_accuracy": {"pgd20": "x"}}}, shape.RESULTS, "'dense.robust_accuracy.pgd20' must be"),
        ({"dense": {"attacks": {"pgd20": [{"eps": 0.1}]}}}, shape.RESULTS, r"pgd20\[0\].checks' must be there"),
        ({"layers": {"a/kernel": {"weights": 0, "kept": 1}}}, shape.RATES, "must be a whole number of at least 1"),
        ({"layers": {"a/kernel": {"weights": None, "kept": 1}}}, shape.RATES, "received None"),
        ({"target_sparsity": 1}, shape.RATES, "above 0 and below 1"),
        ({"flags": {"eps": float("inf")}}, shape.CONFIG, "'flags.eps' must be a number of at least 0"),
        ({"stage": "prune", "epoch": -1}, shape.EPOCH, "'epoch' must be a whole number of at least 0"),
        ({"stage": "prune"}, shape.EPOCH, "'epoch' must be there"),
        ({"dense": {"robust_accuracy": {"\udcff": 0.5}}}, shape.RESULTS, "an object whose names are texts"),
        ({"stage": "prune", "epoch": 0, "logs": {"loss": 10**400}}, shape.EPOCH, "'logs.loss' must be a number"),
        (
            {"dense": {"security_curve": {"cw": {"eps": [0.1], "robust_accuracy": [0.9, 0.1], "norm": "linf"}}}},
            shape.RESULTS,
            "'dense.security_curve.cw' must be as many radii as accuracies",
        ),
    ],
)
def test_what_the_report_cannot_draw_is_named(value, kind, message):
    with pytest.raises(HarpError, match=message):
        shape.check(FILE, value, kind)


@pytest.mark.parametrize("epochs", [[1, "2"], [[1]], [None], [1.5]])
def test_epochs_that_have_no_order(run_dir, epochs):
    lines = [json.dumps({"stage": "prune", "epoch": epoch, "logs": {}}) for epoch in [*epochs, 0]]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(HarpError, match="is not an epoch's JSON object.*'epoch' must be a whole number"):
        read_run(run_dir)


def test_bytes_in_the_metrics_that_are_no_text(run_dir):
    (run_dir / "metrics.jsonl").write_bytes(b"\xff\n{}\n")
    with pytest.raises(HarpError, match="metrics.jsonl cannot be read"):
        read_run(run_dir)
