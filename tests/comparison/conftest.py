"""Comparisons whose cells are made by a stand-in: every figure here is invented, none was measured."""

import json
from pathlib import Path

import pytest

from harp_tf import report
from harp_tf.attacks.named import canonical
from harp_tf.comparison import Axes, Comparison
from harp_tf.config import RunConfig

LAYERS = {"conv/kernel": (100, 40), "logits/kernel": (900, 60)}


def figures(natural: float, robust: dict[str, float], kept: int, images: int = 200) -> dict:
    """What results.json says of one model."""
    attacks = {
        name: [
            {
                "norm": "linf",
                "eps": 0.1,
                "n": images,
                "robust_accuracy": share,
                "ci95": [share - 0.05, share + 0.05],
                "checks": [],
            }
        ]
        for name, share in robust.items()
    }
    return {
        "natural_accuracy": natural,
        "ci95": [natural - 0.05, natural + 0.05],
        "per_class": [natural + 0.1, None, natural - 0.1],
        "robust_accuracy": dict(robust),
        "n_test": 200,
        "n_robust": images,
        "parameters": 1000,
        "nonzero": kept,
        "sparsity": 1 - kept / 1000,
        "file_bytes": 10 * kept,
        "gzip_bytes": 9 * kept,
        "attacks": attacks,
    }


def flag(arguments, name, default=None):
    """The value of a flag among arguments."""
    return next((a.split("=", 1)[1] for a in arguments if a.startswith(f"--{name}=")), default)


class StandIn:
    """Makes cells in no time, and remembers what it was asked for.

    Attributes:
        calls: arguments of every call.
        broken: names of cells that fail.
        found: what the checks find, by attack.
    """

    def __init__(self):
        self.calls: list[list[str]] = []
        self.broken: set[str] = set()
        self.found: dict[str, list[str]] = {}

    def __call__(self, arguments, log: Path, lock: int) -> str:
        arguments = list(arguments)
        self.calls.append(arguments)
        log.write_text("made up\n")
        folder = Path(flag(arguments, "run_dir") or flag(arguments, "target"))
        if folder.name in self.broken:
            return "the model has no logits"
        method = "harp_best" if folder.name.startswith("harp_best") else flag(arguments, "method", "harp")
        dense = folder.name.startswith("dense")
        attacks = [canonical(name) for name in (flag(arguments, "attacks") or "pgd20").split(",")]
        natural = {"harp": 0.8, "lwm": 0.5}.get(method, 0.7) + 0.01 * int(flag(arguments, "seed", "0"))
        result = figures(natural, dict.fromkeys(attacks, natural - 0.1), 1000 if dense else 100)
        for attack, names in self.found.items():
            result["attacks"][attack][0]["checks"] = [{"check": name, "warning": "made up"} for name in names]
        key = "dense" if dense else "pruned"
        path = folder / "results.json"
        earlier = json.loads(path.read_text()).get(key, {}) if path.exists() else {}
        for part in ("robust_accuracy", "attacks"):
            result[part] = {**earlier.get(part, {}), **result[part]}
        path.write_text(json.dumps({key: result, "tflite" if dense else "tflite_sparse": result}))
        if arguments[1] == "harp_tf.train":
            stage = "pretrain" if dense else "prune"
            epochs = int(flag(arguments, f"{stage}_epochs"))
            rows = [{"stage": stage, "epoch": e, "seconds": 2.0, "logs": {}} for e in range(epochs)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "report.html").write_text("<title>made up</title>")
        if not dense:
            layers = {path: {"weights": n, "kept": k, "rate": k / n} for path, (n, k) in LAYERS.items()}
            (folder / "rates.json").write_text(json.dumps({"layers": layers}))
        return ""

    @property
    def cells(self) -> list[str]:
        """Names of the cells it was asked to train, in that order."""
        return [Path(flag(call, "run_dir")).name for call in self.calls if call[1] == "harp_tf.train"]


@pytest.fixture
def stand_in():
    return StandIn()


@pytest.fixture
def undrawn(monkeypatch):
    """The pictures cost seconds."""
    monkeypatch.setattr(report, "write_comparison", lambda directory: directory / "comparison.html")


@pytest.fixture
def compare(tmp_path, stand_in, lines):
    """Makes a comparison of two methods at one sparsity, where it is not told otherwise."""

    def make(
        methods=("harp", "lwm"), sparsities=(0.9,), losses=("pgd",), seeds=(0,), jobs=1, data=None, **settings
    ) -> Comparison:
        defaults = {"run_dir": str(tmp_path / "compared"), "eps": 0.1, "pretrain_epochs": 2, "prune_epochs": 3}
        config = RunConfig(**{**defaults, "finetune_epochs": 4, **settings})
        axes = Axes(tuple(methods), tuple(sparsities), tuple(losses), tuple(seeds))
        return Comparison(
            config, axes, steps_per_epoch=5, data=data or {}, say=lines.append, jobs=jobs, execute=stand_in
        )

    return make
