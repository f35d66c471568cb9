"""Reads comparison.json."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harp_tf.answers import unpacked
from harp_tf.reading import read_json
from harp_tf.types import HarpError

DENSE = "dense"
"""The model that all others start from, one per loss."""

CONTROL = "dense_control"
"""The dense model trained on, unpruned, for as many epochs as the others prune and finetune."""

RECIPE = "harp_best"
"""HARP with the settings of `--recipe=best`, whatever those of the comparison are."""

REFERENCES = (DENSE, CONTROL)
"""Methods that remove nothing: what the others are measured against."""


@dataclass(frozen=True)
class Record:
    """What comparison.json says.

    Attributes:
        path: the directory of the comparison.
        groups: one entry per method, sparsity and loss that has finished cells; where its cells say which images they
            were right on, its accuracies have "right", float [images], the share of seeds that were right on each.
        cells: one entry per cell.
        config: flags, versions and machine.
    """

    path: Path
    groups: list[dict[str, Any]]
    cells: list[dict[str, Any]]
    config: dict[str, Any]

    @property
    def losses(self) -> list[str]:
        """The training losses, in the order they come."""
        return list(dict.fromkeys(group["loss"] for group in self.groups))

    def targets(self, loss: str) -> list[float]:
        """The sparsities that finished cells of a loss have, ascending."""
        return sorted({g["target"] for g in self.groups if g["loss"] == loss and g["target"] is not None})

    def references(self, loss: str) -> list[dict[str, Any]]:
        """The dense model of a loss and its control, as far as they are finished."""
        return [g for g in self.groups if g["loss"] == loss and g["method"] in REFERENCES]

    def pruned(self, loss: str, target: float) -> list[dict[str, Any]]:
        """The pruned groups of a loss at a sparsity."""
        return [g for g in self.groups if g["loss"] == loss and g["target"] == target]

    @property
    def attacks(self) -> list[str]:
        """The attacks that any group was measured with, in the order they come."""
        return list(dict.fromkeys(attack for group in self.groups for attack in group["robust"]))

    @property
    def ranking(self) -> list[str]:
        """The attacks to rank by: the one that most groups were measured with, and the same of those that are stronger.

        Of two that equally many groups were measured with it is the stronger one: it leaves less standing, on average
        over the groups that were measured with both.
        """
        counts = Counter(attack for group in self.groups for attack in group["robust"])
        if not counts:
            return []
        widest = [attack for attack in self.attacks if counts[attack] == max(counts.values())]
        first = min(widest, key=lambda attack: self._excess(attack, widest[0]))
        stronger = [attack for attack in self.attacks if self._excess(attack, first) < 0]
        stronger.sort(key=lambda attack: (-counts[attack], self._excess(attack, first)))
        return [first, *stronger[:1]]

    def _excess(self, attack: str, other: str) -> float:
        """How much more an attack leaves standing than another; 0 if no group was measured with both."""
        both = [g["robust"] for g in self.groups if {attack, other} <= set(g["robust"])]
        return sum(robust[attack]["mean"] - robust[other]["mean"] for robust in both) / max(len(both), 1)


def read_comparison(directory: str | Path) -> Record:
    """Reads the record of the comparison in a directory.

    Raises:
        HarpError: if there is none, or it is something else.
    """
    path = Path(directory) / "comparison.json"
    try:
        content = read_json(path)
        config = {name: content[name] for name in ("flags", "versions", "machine") if name in content}
        groups = [_with_right(group, content["cells"]) for group in content["groups"]]
        return Record(path.parent, groups, content["cells"], config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HarpError(f"{path} is not the record of a comparison ({error!r}). Run harp_tf.compare first.") from error


def _with_right(group: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A group whose accuracies say, image by image, how many of its seeds were right."""
    figures = [cell["figures"] for cell in cells if cell["name"] in group["cells"]]
    natural = {**group["natural"], **_right([f["natural"] for f in figures])}
    robust = {
        name: {**of, **_right([f["robust"][name] for f in figures if name in f["robust"]])}
        for name, of in group["robust"].items()
    }
    return {**group, "natural": natural, "robust": robust}


def _right(measured: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    counts = {m["images"] for m in measured}
    if len(counts) != 1 or not all("right" in m for m in measured):
        return {}
    return {"right": np.mean([unpacked(m["right"], m["images"]) for m in measured], axis=0)}
