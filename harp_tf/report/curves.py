"""Robust accuracy over the radius of the attack."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from harp_tf.report import labels, theme
from harp_tf.report.run import Run

_NORMS = {"linf": "L∞", "l2": "L2"}
_LINES = ["-", "--", ":", "-."]
_NARROW = 23
"""Names of so many letters fit into a legend of two columns."""


def security_curve(run: Run) -> Figure | None:
    """One curve per model and attack that was measured at several radii: colours tell models, dashes attacks."""
    curves = {
        (model, attack): curve
        for model, result in run.results.items()
        for attack, curve in result.get("security_curve", {}).items()
    }
    # The file answers as the model it was made from; a line of its own only where that is not there.
    twins = {"tflite": "dense", "tflite_sparse": "pruned"}
    curves = {key: curve for key, curve in curves.items() if (twins.get(key[0]), key[1]) not in curves}
    if not curves:
        return None
    models, attacks = (list(dict.fromkeys(key[i] for key in curves)) for i in (0, 1))
    names = {key: f"{labels.model(key[0])}, {labels.attack(key[1])}" for key in curves}
    columns = 1 if len(curves) < 3 or max(map(len, names.values())) > _NARROW else 2
    figure = theme.figure(height=3.2 + 0.2 * math.ceil(len(curves) / columns))
    axes = figure.subplots()
    for (model, attack), curve in curves.items():
        axes.plot(
            curve["eps"],
            [100 * share for share in curve["robust_accuracy"]],
            _LINES[attacks.index(attack) % len(_LINES)],
            color=theme.SERIES[models.index(model) % len(theme.SERIES)],
            marker="o" if len(curve["eps"]) <= 12 else None,
            markersize=3.5,
            label=names[model, attack],
        )
    own = run.config.get("flags", {}).get("eps")
    if own:
        axes.axvline(own, color=theme.LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            "trained for", (own, 1), (3, -3), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            va="top", fontsize=8.5, color=theme.LIGHT["muted"],
        )  # fmt: skip
    norms = {curve["norm"] for curve in curves.values()}
    axes.set(ylim=(0, 100), ylabel="robust accuracy, %")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"radius of the attack, {' and '.join(_NORMS.get(n, n) for n in sorted(norms))}, [0, 1] pixels")
    figure.legend(loc="outside upper center", ncols=columns)
    return figure


def write_security_curve(results: Mapping[str, Any], target: Path) -> None:
    """Draws the security curves of figures that belong to no run directory; without any nothing is written.

    Args:
        results: figures by model, as in results.json.
        target: where to draw, without the endings .png and .svg.
    """
    with rc_context(theme.STYLE):
        drawn = security_curve(Run(target, {}, {}, {}, dict(results)))
    if drawn is not None:
        theme.save({target.name: drawn}, target.parent)
