"""From the figures of the cells to what is compared: one entry per method, sparsity and loss, over all seeds."""

import statistics
from collections.abc import Callable, Sequence

from harp_tf.comparison.cells import CHOICES, CONTROL, DENSE
from harp_tf.comparison.statistics import pooled, summary

_ORDER = (DENSE, CONTROL, *(method for method in CHOICES if method != CONTROL))


def groups(cells: Sequence[dict]) -> list[dict]:
    """Joins the cells that have figures over their seeds.

    Args:
        cells: entries of comparison.json.

    Returns:
        By loss, then sparsity (the dense models first), then method, one entry with its seeds; natural and, by attack,
        robust (see `summary`; of the seeds that were measured with it, on the most images), with "borrowed", whether
        the deviation is that at other sparsities, since no method has several seeds at this one; weights, sparsity and,
        as means, worst_class (None unless all cells have it), kept, file_bytes, gzip_bytes and layers (weights kept by
        path); epochs and passes by stage, which begin with those of the shared dense model, and seconds by stage.
    """
    by_key: dict[tuple, list[dict]] = {}
    for cell in (cell for cell in cells if "figures" in cell):
        by_key.setdefault((cell["loss"], cell["sparsity"] or 0.0, cell["method"]), []).append(cell)
    dense = {loss: found[0] for (loss, _, method), found in by_key.items() if method == DENSE}
    order = sorted(by_key, key=lambda key: (key[0], key[1], _place(key[2]), key[2]))
    alike: dict[tuple, list[list[dict]]] = {}
    everywhere: dict[str, list[list[dict]]] = {}
    for (loss, sparsity, _), found in by_key.items():
        figures = [cell["figures"] for cell in found]
        alike.setdefault((loss, sparsity), []).append(figures)
        if sparsity:
            everywhere.setdefault(loss, []).append(figures)
    return [_group(by_key[k], dense.get(k[0]), alike[k[:2]], everywhere[k[0]] if k[1] else []) for k in order]


def _place(method: str) -> int:
    """Where a method stands among others; those of the user's own come last."""
    kind = method.partition("@")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _group(cells: list[dict], dense: dict | None, alike: list[list[dict]], everywhere: list[list[dict]]) -> dict:
    """One entry; `alike` are the figures of all methods of its loss and sparsity, seed by seed; `everywhere` at all."""
    first = cells[0]
    figures = [cell["figures"] for cell in cells]
    attacks = dict.fromkeys(attack for f in figures for attack in f["robust"])
    before = dense["figures"] if dense is not None and first["method"] != DENSE else {}
    weights = before.get("weights") or figures[0]["weights"]  # channels that are gone count as removed
    kept = statistics.fmean(f["kept"] for f in figures)
    worst = [f.get("worst_class") for f in figures]
    return {
        "method": first["method"],
        "target": first["sparsity"],
        "loss": first["loss"],
        "seeds": sorted(cell["seed"] for cell in cells),
        "cells": [cell["name"] for cell in cells],
        "natural": _summary(figures, alike, everywhere, lambda f: f["natural"]),
        "robust": {
            attack: _summary(figures, alike, everywhere, lambda f, attack=attack: f["robust"].get(attack))
            for attack in attacks
        },
        "worst_class": None if None in worst else statistics.fmean(worst),
        "weights": weights,
        "kept": kept,
        "sparsity": 1.0 - kept / weights if weights else 0.0,
        "file_bytes": _mean([f["file_bytes"] for f in figures]),
        "gzip_bytes": _mean([f["gzip_bytes"] for f in figures]),
        "epochs": {**_shared(before, "epochs"), **_stages(first, "epochs")},
        "passes": {**_shared(before, "passes"), **_stages(first, "passes")},
        "seconds": {
            stage: round(statistics.fmean(_stages(cell, "seconds").get(stage, 0.0) for cell in cells), 1)
            for stage in _stages(first, "seconds")
        },
        "layers": {
            path: {
                "weights": row["weights"],
                "kept": statistics.fmean(f["layers"].get(path, row)["kept"] for f in figures),
            }
            for path, row in figures[0]["layers"].items()
        },
    }


def _summary(figures: list[dict], alike: list[list[dict]], everywhere: list[list[dict]], of: Callable) -> dict:
    """Summarises what `of` takes from the figures of each seed; None where a seed has it not."""

    def measured(found: list[dict]) -> tuple[list[float], int]:
        """Of the seeds measured on the most images, since a mean must be of the same ones; and how many images."""
        known = [one for one in map(of, found) if one]
        most = max((one["images"] for one in known), default=0)
        return [one["accuracy"] for one in known if one["images"] == most], most

    here, anywhere = (pooled([measured(found)[0] for found in methods]) for methods in (alike, everywhere))
    borrowed = here is None and anywhere is not None
    return {**summary(*measured(figures), anywhere if borrowed else here), "borrowed": borrowed}


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _stages(cell: dict, key: str) -> dict:
    """What the stages of a cell cost; the training of the dense model and of its control are called by their names."""
    names = {"pretrain": "dense" if cell["method"] == DENSE else "control"}
    return {names.get(stage, stage): cost for stage, cost in cell["figures"][key].items()}


def _shared(dense: dict, key: str) -> dict[str, int]:
    """What the dense model cost, for a model that starts from it."""
    return {"dense": sum(dense.get(key, {}).values())} if dense.get(key) else {}
