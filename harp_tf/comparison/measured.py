"""What the run directory of a cell says: how far it has come, and its figures."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harp_tf import measure
from harp_tf.attacks.named import canonical
from harp_tf.attacks.records import most_images
from harp_tf.comparison.budget import gradient_passes
from harp_tf.comparison.cells import Cell
from harp_tf.config import RunConfig
from harp_tf.reading import read_json
from harp_tf.report.run import read_run
from harp_tf.run_dir import CHANNEL_PART, TFLITE_KEYS
from harp_tf.run_record import RunRecord, other_data
from harp_tf.types import HarpError


def is_trained(cell: Cell) -> bool:
    """Whether nothing is left to train: the stages after training have left figures."""
    return _figures(cell) is not None


def is_measured(cell: Cell) -> bool:
    """Whether results.json has all attacks of the cell's settings, at all radii, on as many images."""
    figures, c = _figures(cell), cell.config
    if figures is None:
        return False
    wanted = min(c.robust_limit or figures["n_test"], figures["n_test"])
    radii = measure.radii(c)
    for attack in map(canonical, c.evaluated_attacks):
        entries = figures.get("attacks", {}).get(attack, [])
        enough = [entry for entry in entries if entry["norm"] == c.norm and entry["n"] >= wanted]
        own = {entry["eps"] for entry in enough}
        curve = [eps for entry in enough for eps in entry.get("curve", {"eps": []})["eps"]]
        if radii[0] not in own or not all(eps in own or np.isclose(eps, curve).any() for eps in radii):
            return False
    return True


def figures(cell: Cell, steps_per_epoch: int) -> dict:
    """The figures of a measured cell, for comparison.json.

    Args:
        cell: the cell.
        steps_per_epoch: training batches in an epoch.

    Returns:
        natural and robust (by attack) as {"accuracy", "ci95", "images", "right"}, the latter with "settings" of the
        attack and "warnings" as well, the names of the checks that found something in it; worst_class, the natural
        accuracy of the class that is recognised least, which an average hides; weights, kept and sparsity; file_bytes
        and gzip_bytes of its .tflite file; by stage epochs, passes (gradient passes over a batch) and seconds; and
        layers, by path {"weights", "kept"}.
    """
    results = _read_object(cell.directory / "results.json")
    found, file = results[cell.key], results.get(TFLITE_KEYS[cell.key], {})
    c = cell.config
    best = {attack: most_images(entries, c.norm, c.eps) for attack, entries in found.get("attacks", {}).items()}
    headline = {attack: entry for attack, entry in best.items() if entry is not None}
    robust = {
        attack: {
            "accuracy": entry["robust_accuracy"],
            "images": entry["n"],
            **_answers(entry),
            "settings": entry.get("settings", {}),
            "warnings": sorted({check["check"] for check in entry["checks"]}),
        }
        for attack, entry in headline.items()
    }
    stages = _stages(cell)
    layers = _read_object(cell.directory / "rates.json").get("layers", {}) if cell.sparsity is not None else {}
    return {
        "natural": {"accuracy": found["natural_accuracy"], "images": found["n_test"], **_answers(found)},
        "robust": robust,
        "worst_class": min((share for share in found["per_class"] if share is not None), default=None),
        "weights": found["parameters"],
        "kept": found["nonzero"],
        "sparsity": found["sparsity"],
        "file_bytes": file.get("file_bytes"),
        "gzip_bytes": file.get("gzip_bytes"),
        "epochs": {stage: len(seconds) for stage, seconds in stages.items()},
        "passes": {stage: gradient_passes(c, len(seconds), steps_per_epoch) for stage, seconds in stages.items()},
        "seconds": {stage: round(sum(seconds.values()), 1) for stage, seconds in stages.items()},
        "layers": {path: {"weights": row["weights"], "kept": row["kept"]} for path, row in layers.items()},
    }


def begun_with(cell: Cell) -> RunConfig:
    """The settings that an unfinished cell was begun with, which it can only be gone on with; its own if it was not."""
    flags = _read_object(cell.directory / "config.json").get("flags", {})
    known = {name: flags[name] for name in EVALUATION if name in flags}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return dataclasses.replace(cell.config, **values)


def changed_settings(earlier: dict, config: RunConfig) -> dict[str, str]:
    """The settings in which a comparison differs from what earlier cells were trained with.

    Args:
        earlier: settings by name, of the earlier cells.
        config: the settings now.

    Returns:
        By name, what the setting was and what it is, for people.
    """
    now = config.as_dict()
    fixed = [field.name for field in dataclasses.fields(config) if field.metadata["decides"]]
    fixed = [name for name in fixed if name not in (*EVALUATION, *_AXES)]
    changed = [name for name in fixed if name in earlier and earlier[name] != now[name]]
    return {name: f"--{name} was {earlier[name]} and is {now[name]}" for name in changed}


def trained_otherwise(cell: Cell, data: Mapping[str, Any]) -> list[str]:
    """Why a cell would be another one now, each reason as text.

    Args:
        cell: the cell.
        data: what tells the images from others, see `DataSplits.record`.

    Returns:
        The images that are others than those it was begun with, and settings, if the cell is trained and removes
        weights.
    """
    record = RunRecord.read(cell.directory)
    if record is None:
        return []
    reasons = [f"the {split} images were others" for split in other_data(record.data, data)]
    if cell.sparsity is not None and is_trained(cell):
        changed = changed_settings(record.flags, cell.config)
        changed.pop("init_from", None)  # a comparison may have been moved, and its dense model with it
        reasons += changed.values()
    return reasons


EVALUATION = ("attacks", "eps_list", "robust_limit")
"""Settings that a trained cell may be measured with anew."""

_AXES = ("method", "strategy", "target_sparsity", "loss", "stages", "measure_dense")
"""Settings that every cell has of its own."""


def _answers(entry: dict) -> dict:
    """ci95, and right where an entry has it: those of earlier versions have not."""
    return {name: entry[name] for name in ("ci95", "right") if name in entry}


def _figures(cell: Cell) -> dict | None:
    results = _read_object(cell.directory / "results.json")
    return results.get(cell.key)


def _stages(cell: Cell) -> dict[str, dict[int, float]]:
    """Seconds of every epoch by stage."""
    return {
        "prune (channels)" if stage == CHANNEL_PART else stage: {
            entry["epoch"]: entry.get("seconds") or 0.0 for entry in epochs
        }
        for stage, epochs in read_run(cell.directory).stages.items()
    }


def _read_object(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise HarpError(
            f"{path} is damaged ({error}). Remove the cell {path.parent.name} and compare again."
        ) from error
    if not isinstance(content, dict):
        raise HarpError(f"{path} is no JSON object. Remove the cell {path.parent.name} and compare again.")
    return content
