"""What the methods keep of each layer."""

import statistics
from typing import Any

from harp_tf.report import labels
from harp_tf.report.axes import percentage

_APART = 1.5
"""HARP keeps more, or less, than the others from this factor on."""

_NAMED = 4


def shares_by_layer(groups: list[dict[str, Any]]) -> tuple[list[str], list[tuple[list[str], list[float]]]] | None:
    """Shares of the weights that each layer keeps.

    Args:
        groups: of one sparsity, see `Record.pruned`.

    Returns:
        Paths of the layers, from the first to the last, and for every set of shares the methods that have it and the
        shares; methods with other layers than the first (channels that are gone) are left out. None without layers.
    """
    known = [g for g in groups if g["layers"]]
    if not known:
        return None
    paths = list(known[0]["layers"])
    lines: dict[tuple[float, ...], list[str]] = {}
    for g in known:
        if list(g["layers"]) == paths:
            shares = tuple(round(row["kept"] / row["weights"], 6) for row in g["layers"].values())
            lines.setdefault(shares, []).append(g["method"])
    return paths, [(methods, list(shares)) for shares, methods in lines.items()]


def what_harp_keeps(groups: list[dict[str, Any]]) -> str:
    """Says in which layers HARP keeps what the other methods cut, and the other way round; "" where it is not there."""
    found = shares_by_layer(groups)
    if found is None:
        return ""
    paths, lines = found
    own = next((shares for methods, shares in lines if "harp" in methods), None)
    # Every method has a voice, also those that keep the same as another.
    others = [shares for methods, shares in lines for method in methods if method != "harp"]
    if own is None or not others:
        return ""
    usual = [statistics.median(shares) for shares in zip(*others)]
    ratios = {path: (mine / their if their else float("inf")) for path, mine, their in zip(paths, own, usual)}
    names = dict(zip(paths, labels.layers(paths)))
    percent = {
        path: f"{percentage(mine)} % against {percentage(their)} %" for path, mine, their in zip(paths, own, usual)
    }
    more = sorted((p for p in paths if ratios[p] >= _APART), key=lambda p: -ratios[p])[:_NAMED]
    less = sorted((p for p in paths if ratios[p] <= 1 / _APART), key=lambda p: ratios[p])[:_NAMED]
    parts = [
        f"{what} {', '.join(f'{names[p]} ({percent[p]})' for p in chosen)}"
        for what, chosen in (("more of", more), ("less of", less))
        if chosen
    ]
    if not parts:
        return "HARP keeps about what the others keep of every layer."
    return f"HARP keeps {' and '.join(parts)}; the second figure is the median of the other methods."
