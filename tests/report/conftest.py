"""Made-up run directories: every number here is invented, none was measured."""

import json

import pytest

from harp_tf.comparison.groups import groups

LAYERS = {"conv1/kernel": (144, 100), "block/conv2/kernel": (18432, 300), "logits/kernel": (1280, 160)}
WEIGHTS = sum(weights for weights, _ in LAYERS.values())
KEPT = sum(kept for _, kept in LAYERS.values())


def entry(natural, robust, nonzero, file_bytes, gzip_bytes):
    return {
        "natural_accuracy": natural,
        "balanced_accuracy": natural,
        "robust_accuracy": {"pgd20": robust},
        "n_test": 360,
        "n_robust": 360,
        "sparsity": 1 - nonzero / WEIGHTS,
        "nonzero": nonzero,
        "parameters": WEIGHTS,
        "file_bytes": file_bytes,
        "gzip_bytes": gzip_bytes,
    }


def cell(method, sparsity, natural, robust, seed=0, layers=LAYERS, **more):
    """An entry of comparison.json."""
    kept = sum(kept for _, kept in layers.values()) if sparsity is not None else WEIGHTS
    shares = {"pgd20": robust, "autoattack": robust - 0.03}
    figures = {
        "natural": {"accuracy": natural, "ci95": [0.0, 1.0], "images": 10_000},
        "robust": {
            name: {"accuracy": share, "ci95": [0.0, 1.0], "images": 1000, "warnings": []}
            for name, share in shares.items()
        },
        "worst_class": natural - 0.2,
        "weights": WEIGHTS,
        "kept": kept,
        "sparsity": 1 - kept / WEIGHTS,
        "file_bytes": 4 * kept + 9000,
        "gzip_bytes": 3 * kept + 6000,
        "epochs": {"pretrain": 8} if sparsity is None else {"prune": 5, "finetune": 6},
        "passes": {"pretrain": 5120} if sparsity is None else {"prune": 3200, "finetune": 3840},
        "seconds": {"pretrain": 80.0} if sparsity is None else {"prune": 60.0, "finetune": 66.0},
        "layers": {} if sparsity is None else {p: {"weights": n, "kept": k} for p, (n, k) in layers.items()},
    }
    name = f"{method}_{100 * (sparsity or 0):g}_{seed}"
    found = {"figures": figures} if more.get("status", "finished") == "finished" else {}
    return {
        "name": name, "method": method, "sparsity": sparsity, "loss": "pgd", "seed": seed, "status": "finished",
        "command": f"python -m harp_tf.train --run_dir=runs/{name}", **found, **more,
    }  # fmt: skip


EVEN = {path: (weights, round(0.03 * weights) or 1) for path, (weights, _) in LAYERS.items()}


@pytest.fixture
def cells():
    """Of a comparison of three methods at two sparsities."""
    return [
        cell("dense", None, 0.78, 0.68),
        cell("dense_control", None, 0.81, 0.71),
        cell("harp", 0.9, 0.77, 0.67),
        cell("lwm", 0.9, 0.765, 0.64, layers=EVEN),
        cell("random", 0.9, 0.60, 0.40, layers=EVEN),
        cell("harp", 0.97, 0.76, 0.66),
        cell("harp", 0.97, 0.78, 0.68, seed=1),
        cell("lwm", 0.97, 0.70, 0.60, layers=EVEN),
        cell("random", 0.97, 0.4, 0.2, status="failed", message="out of luck"),
    ]


@pytest.fixture
def compared(tmp_path, cells):
    """A function that writes the record of a comparison, of these cells or others, and returns its directory."""

    def write(cells=cells):
        folder = tmp_path / "compared"
        folder.mkdir(exist_ok=True)
        for one in cells:
            (folder / "cells" / one["name"]).mkdir(parents=True, exist_ok=True)
            (folder / "cells" / one["name"] / "report.html").write_text("<title>made up</title>")
        config = {"flags": {"model": "cnn", "eps": 0.1}, "versions": {"keras": "3.15.1"}, "machine": {"cores": 2}}
        content = {**config, "groups": groups(cells), "cells": cells}
        (folder / "comparison.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture
def results():
    return {
        "dense": entry(0.971, 0.902, WEIGHTS, 1_100_000, 990_000),
        "pruned": entry(0.960, 0.890, KEPT, 1_100_000, 30_000),
        "tflite": entry(0.971, 0.902, WEIGHTS, 1_008_000, 930_000),
        "tflite_sparse": entry(0.960, 0.890, KEPT, 24_000, 15_000),
    }


@pytest.fixture
def epochs():
    rows = []
    for stage, count in (("pretrain", 4), ("prune", 3), ("finetune", 1)):
        for epoch in range(count):
            logs = {
                "loss": 1.5 / (epoch + 1),
                "natural_loss": 0.5 / (epoch + 1),
                "robust_loss": 1.0 / (epoch + 1),
                "natural_accuracy": 0.5 + 0.1 * epoch,
                "adversarial_accuracy": 0.4 + 0.1 * epoch,
                "val_natural_accuracy": 0.45 + 0.1 * epoch,
                "val_adversarial_accuracy": 0.35 + 0.1 * epoch,
                "learning_rate": 0.1,
            }
            row = {"stage": stage, "epoch": epoch, "seconds": 2.5, "logs": logs}
            if stage == "prune":
                row["rates"] = dict.fromkeys(LAYERS, 0.1 / 2**epoch)
                logs.update(hw_loss=3.0 - epoch, gamma=0.01 * (epoch + 1), rate=0.1 / 2**epoch)
            rows.append(row)
    return rows


@pytest.fixture
def run_dir(tmp_path, results, epochs):
    """A finished run."""
    path = tmp_path / "made_up"
    path.mkdir()
    layers = {p: {"weights": n, "kept": k, "rate": k / n} for p, (n, k) in LAYERS.items()}
    rates = {
        "target_sparsity": 0.97,
        "granularity": "weight",
        "strategy": "uniform",
        "weights": WEIGHTS,
        "kept": KEPT,
        "budget": 595,
        "projected": True,
        "layers": layers,
    }
    config = {
        "flags": {"model": "cnn", "eps": 0.1, "augment": None},
        "seed": 3,
        "versions": {"keras": "3.15.1"},
    }
    for name, value in {"results": results, "rates": rates, "config": config}.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in epochs))
    (path / "model_sparse.tflite").write_bytes(bytes(24_000))
    return path
