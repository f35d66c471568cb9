"""Made-up run directories: every number here is invented, none was measured."""

import json

import pytest

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
