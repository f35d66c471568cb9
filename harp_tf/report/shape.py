"""What the report relies on in the files of a run, checked before it is drawn."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harp_tf.types import HarpError, is_number

ANY = "*"
"""The key of a shape that stands for every name of an object."""

_NEEDED = "!"
"""Ends the name of what must be there; everything else may be missing or null."""


class Kind:
    """A kind of value: how a message calls it, and how it is told."""

    def __init__(self, text: str, holds: Callable[[Any], bool]):
        self.text, self.holds = text, holds


def _finite(value: Any) -> bool:
    return is_number(value) and abs(value) <= 1e300


def _plottable(value: Any) -> bool:
    return is_number(value) and (isinstance(value, float) or abs(value) < 2**63)  # an int may be too large for a float


number = Kind("a number", lambda value: _plottable(value) and abs(value) != math.inf)
positive = Kind("a number above 0", lambda value: _finite(value) and value > 0)
not_negative = Kind("a number of at least 0", lambda value: _finite(value) and value >= 0)
share = Kind("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
count = Kind(
    "a whole number of at least 0", lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63
)
several = Kind("a whole number of at least 1", lambda value: count.holds(value) and value > 0)


def _is_text(value: Any) -> bool:
    """Halves of a surrogate pair, which JSON can spell, cannot be drawn or written."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


text = Kind("a text", _is_text)

LOGS = {ANY: Kind("a number", _plottable)}  # a loss may be infinite
EPOCH = {"stage!": text, "epoch!": Kind(count.text, lambda value: count.holds(value) and value < 2**31), "logs": LOGS}
EPOCH["seconds"] = not_negative
EPOCH["rates"] = {ANY: Kind("a number above 0 and at most 1", lambda value: share.holds(value) and value > 0)}

CONFIG = {"flags": {"eps": not_negative}}

_LAYER = {"weights!": several, "kept!": several}
RATES = {
    "weights": count,
    "kept": count,
    "budget": count,
    "cost": count,
    "cost_kept": count,
    "budget_counts": text,
    "target_sparsity": Kind("a number above 0 and below 1", lambda value: share.holds(value) and 0 < value < 1),
    "layers": {ANY: _LAYER},
}

_MEASURED = {
    "eps!": number,
    "checks!": [{"check!": text, "warning!": text}],
    "stages": {ANY: share},
}
_CURVE = (
    {"eps!": [number], "robust_accuracy!": [share], "norm!": text},
    Kind("as many radii as accuracies", lambda curve: len(curve["eps"]) == len(curve["robust_accuracy"])),
)
RESULT = {
    "natural_accuracy": share,
    "balanced_accuracy": share,
    "robust_accuracy": {ANY: share},
    "n_test": count,
    "n_robust": count,
    "sparsity": share,
    "nonzero": count,
    "parameters": count,
    "file_bytes": count,
    "gzip_bytes": count,
    "attacks": {ANY: [_MEASURED]},
    "security_curve": {ANY: _CURVE},
}
RESULTS = {ANY: RESULT}

_TIMED = {"name!": text, "threads!": several, "median_ms!": positive, "p10_ms!": positive, "p90_ms!": positive}
LATENCY = {"rows!": [{**_TIMED, "ratio": positive}]}


def check(path: Path, value: Any, shape: Any, place: str = "") -> None:
    """Compares what a file says to a shape.

    Args:
        path: the file, for the message.
        value: of a JSON file.
        shape: a `Kind`; or [shape of every item]; or {name: shape}, in which `ANY` is every other name, and a name that
            ends in "!" must be there; or several shapes in a tuple, all of which must hold.
        place: where the value is in the file, for the message.

    Raises:
        HarpError: if it is something else; names the place.
    """
    if isinstance(shape, Kind):
        if not shape.holds(value):
            _refuse(path, place, shape.text, value)
    elif isinstance(shape, tuple):
        for part in shape:
            check(path, value, part, place)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(path, place, "a list", value)
        for index, item in enumerate(value):
            check(path, item, shape[0], f"{place}[{index}]")
    else:
        if not isinstance(value, dict):
            _refuse(path, place, "an object", value)
        for name in shape:
            if name.endswith(_NEEDED) and name[:-1] not in value:
                _refuse(path, f"{place}.{name[:-1]}", "there", None)
        for name, item in value.items():
            if not _is_text(name):
                _refuse(path, place, "an object whose names are texts", name)
            inner = shape.get(f"{name}{_NEEDED}")
            if inner is None and item is not None:
                inner = shape.get(name, shape.get(ANY))
            if inner is not None:
                check(path, item, inner, f"{place}.{name}")


def _refuse(path: Path, place: str, expected: str, value: Any) -> None:
    received = repr(value) if len(repr(value)) < 60 else f"a {type(value).__name__}"
    where = f": {place.removeprefix('.')!r}" if place else ""
    raise HarpError(f"{path}{where} must be {expected}, received {received}. Remove the file and run the stage again.")
