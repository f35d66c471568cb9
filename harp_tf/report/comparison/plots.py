"""The pictures of a comparison: accuracy over sparsity, the standing at each sparsity, and what each layer keeps."""

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from harp_tf.report import labels, theme
from harp_tf.report.comparison.layers import shares_by_layer
from harp_tf.report.comparison.read import Record

_C = theme.LIGHT
# Colours tell families of methods, dashes and markers their members.
STYLES: dict[str, tuple[str, str, str]] = {
    "harp": (_C["blue"], "-", "o"),
    "harp_best": (_C["blue"], "-.", "P"),
    "harp_joint": (_C["blue"], ":", "^"),
    "rate": (_C["blue"], "--", "s"),
    "hydra": (_C["orange"], "-", "o"),
    "hydra_erk": (_C["orange"], "--", "s"),
    "hydra_lamp": (_C["orange"], ":", "^"),
    "lwm": (_C["green"], "-", "o"),
    "lwm_layer": (_C["green"], "--", "s"),
    "tfmot": (_C["green"], ":", "^"),
    "radmm": (_C["pink"], "-", "o"),
    "flying_bird": (_C["pink"], "--", "s"),
    "flying_bird_plus": (_C["pink"], ":", "^"),
    "random": (_C["muted"], "-", "o"),
    "dense": (_C["ink"], "-", "D"),
    "dense_control": (_C["ink"], "--", "D"),
}
_OTHER = (_C["soft"], "-", "o")
_SPAN = 30
"""Points of accuracy that a curve over sparsity shows at most: one method that collapses would squeeze all others."""


def _style(method: str) -> tuple[str, str, str]:
    """Colour, line and marker; a method at other rates than its own has its colour."""
    kind, at, _ = method.partition("@")
    colour, line, marker = STYLES.get(kind, _OTHER)
    return (colour, "-.", "v") if at else (colour, line, marker)


def figures(record: Record) -> tuple[dict[str, Figure], dict[str, str]]:
    """The pictures by their file name without the ending, and their captions."""
    drawn: dict[str, Figure | None] = {}
    captions: dict[str, str] = {}
    with rc_context(theme.STYLE):
        for loss in record.losses:
            trained = f" Training loss: {loss}." if len(record.losses) > 1 else ""
            for attack in dict.fromkeys((None, *record.attacks)):
                what = "Natural accuracy" if attack is None else f"Accuracy under {labels.attack(attack)}"
                name = f"curve_{loss}_{attack or 'natural'}"
                drawn[name] = _curve(record, loss, attack)
                captions[name] = (
                    f"{what} over the sparsity; bars span one standard error to either side. A line that leaves the "
                    f"picture ends more than {_SPAN} points below the best.{trained}"
                )
            for target in record.targets(loss):
                at = f"{100 * target:.10g}".replace(".", "_")
                name = f"standing_{loss}_{at}"
                drawn[name] = _standing(record, loss, target)
                captions[name] = (
                    f"At {labels.sparsity(target)} % sparsity: natural and robust accuracy with one standard error to "
                    f"either side; lines: the dense model (solid) and its control (dashed).{trained}"
                )
                name = f"layers_{loss}_{at}"
                drawn[name] = _layers(record, loss, target)
                captions[name] = (
                    f"Share of its weights that each layer keeps at {labels.sparsity(target)} % sparsity, from the "
                    f"first layer to the last. Methods that keep the same are one line.{trained}"
                )
    return {name: figure for name, figure in drawn.items() if figure is not None}, captions


def _curve(record: Record, loss: str, attack: str | None) -> Figure | None:
    """An accuracy of every method over the sparsity; None where it was measured at one sparsity only."""
    targets = [t for t in record.targets(loss) if any(_measured(g, attack) for g in record.pruned(loss, t))]
    if len(targets) < 2:
        return None
    figure = theme.figure(height=5.2)
    axes = figure.subplots()
    methods = list(dict.fromkeys(g["method"] for target in targets for g in record.pruned(loss, target)))
    for method in methods:
        points = [
            (-math.log10(1 - target), found)
            for target in targets
            for g in record.pruned(loss, target)
            if g["method"] == method and (found := _measured(g, attack)) is not None
        ]
        if points:
            colour, line, marker = _style(method)
            x, y, error = zip(*((place, 100 * m["mean"], 100 * m["se"]) for place, m in points))
            width = 2.6 if method == "harp" else 1.4
            axes.errorbar(
                x, y, error, color=colour, linestyle=line, marker=marker, markersize=4, linewidth=width, elinewidth=0.8,
                label=labels.method(method), zorder=3 if method == "harp" else 2,
            )  # fmt: skip
    for g in record.references(loss):
        found = _measured(g, attack)
        if found is not None:
            _, line, _ = STYLES[g["method"]]
            axes.axhline(
                100 * found["mean"], color=_C["ink"], linestyle=line, linewidth=1, label=labels.method(g["method"])
            )
    lowest, highest = axes.dataLim.intervaly
    if lowest < highest - _SPAN:
        axes.set_ylim(highest - _SPAN, highest + 0.04 * _SPAN)
    axes.xaxis.set_major_locator(FixedLocator([-math.log10(1 - target) for target in targets]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{100 * (1 - 10**-place):.6g}"))
    axes.set_xlabel("sparsity, %")
    axes.set_ylabel(f"{'natural' if attack is None else labels.attack(attack)} accuracy, %")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def _standing(record: Record, loss: str, target: float) -> Figure | None:
    """Natural accuracy of every method and those it is ranked by, at one sparsity, the most robust on top."""
    groups, first = record.pruned(loss, target), next(iter(record.ranking), None)
    if not groups:
        return None
    groups = sorted(groups, key=lambda g: -(_measured(g, first) or g["natural"])["mean"])
    figure = theme.figure(height=0.3 * len(groups) + 1.3)
    axes = figure.subplots()
    kinds: dict[str | None, tuple[str, str, str]] = {None: ("natural", _C["blue"], "o")}
    for attack, colour, marker in zip(record.ranking, (_C["orange"], _C["pink"]), "sD"):
        kinds[attack] = (labels.attack(attack), colour, marker)
    for kind, (label, colour, marker) in kinds.items():
        rows = [(row, m) for row, g in enumerate(groups) if (m := _measured(g, kind)) is not None]
        if not rows:
            continue
        axes.errorbar(
            [100 * m["mean"] for _, m in rows], [row for row, _ in rows], xerr=[100 * m["se"] for _, m in rows],
            color=colour, linestyle="none", marker=marker, markersize=5, elinewidth=1.4, label=label,
        )  # fmt: skip
        for g in record.references(loss):
            found = _measured(g, kind)
            if found is not None:
                axes.axvline(100 * found["mean"], color=colour, linestyle=STYLES[g["method"]][1], linewidth=1)
    axes.set_yticks(range(len(groups)), [labels.method(g["method"]) for g in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel("accuracy, %")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _layers(record: Record, loss: str, target: float) -> Figure | None:
    """Share of the weights that every layer keeps, one line per set of rates."""
    found = shares_by_layer(record.pruned(loss, target))
    if found is None:
        return None
    paths, lines = found
    figure = theme.figure(height=3.4 + 0.2 * len(lines))
    axes = figure.subplots()
    for methods, shares in lines:
        colour, line, marker = _style(methods[0])
        width = 2.6 if "harp" in methods else 1.4
        axes.plot(
            range(len(paths)), shares, line, color=colour, marker=marker, markersize=4, linewidth=width,
            label=textwrap.fill(", ".join(map(labels.method, methods)), 46), zorder=3 if "harp" in methods else 2,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %" if share <= 1 else ""))
    axes.yaxis.set_minor_formatter(NullFormatter())
    shown = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), 12)).round().astype(int))
    names = labels.layers(paths)
    axes.set_xticks(shown, [names[i] for i in shown], rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("share of the layer's weights kept")
    figure.legend(loc="outside lower center", fontsize=8.5)
    return figure


def _measured(group: dict[str, Any], attack: str | None) -> dict[str, Any] | None:
    return group["natural"] if attack is None else group["robust"].get(attack)
