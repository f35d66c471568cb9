"""Pictures of a strategy: what is kept of each layer, and how the rates came there."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from harp_tf.report import labels, theme
from harp_tf.report.axes import MARKED_EPOCHS, SMALL, epoch_axis, percent_axis, percentage, target_line
from harp_tf.report.run import Run

NAMED_LAYERS = 10  # More layers than that get a colour bar in place of their names.


def strategy_weights(run: Run) -> Figure | None:
    """Kept weights of every layer, in front of all its weights."""
    if not run.rates.get("layers"):
        return None
    figure, axes, layers = _layer_rows(run)
    places = np.arange(len(layers))
    weights, kept = ([layer[key] for layer in layers] for key in ("weights", "kept"))
    bars = axes.barh(places, weights, 0.7, color=theme.LIGHT["soft"], label="all weights")
    axes.barh(places, kept, 0.7, color=theme.LIGHT["blue"], label="kept")
    axes.bar_label(bars, [f"{count:,}" for count in kept], padding=4, fontsize=SMALL)
    axes.set_xscale("log")
    axes.set_xlim(0.7, 6 * max(weights))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: _short_count(count)))
    axes.set_xlabel("weights, logarithmic (written: kept)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def strategy_rates(run: Run) -> Figure | None:
    """Rate of every layer, the share of its weights that it keeps, beside the target of the network."""
    if not run.rates.get("layers"):
        return None
    figure, axes, layers = _layer_rows(run)
    rates = np.array([layer["kept"] / layer["weights"] for layer in layers])
    low = rates.min() / 2
    right = axes.get_yaxis_transform()
    axes.barh(np.arange(len(layers)), rates - low, 0.7, left=low, color=theme.LIGHT["blue"])
    for place, rate in enumerate(rates):
        # In a column of their own, where the target's line does not cross them.
        text = f"{percentage(rate)} %"
        axes.text(1, place, text, transform=right, ha="right", va="center", fontsize=SMALL)
    target_line(axes, run, "x")
    percent_axis(axes, "x", rates)
    axes.set_xlim(low, 1 / low**0.25)
    axes.set_xlabel("share of the layer's weights kept, logarithmic")
    return figure


def layer_rates(run: Run) -> Figure | None:
    """Rate of every layer over the epochs of the prune stage, from the first layer to the last."""
    epochs = [epoch for epoch in run.stages.get("prune", []) if epoch.get("rates")]
    if not epochs:
        return None
    paths = list(epochs[-1]["rates"])
    figure = theme.figure(height=4.55)
    axes = figure.subplots()
    x = np.array([epoch["epoch"] + 1 for epoch in epochs])
    rates = np.array([[epoch["rates"].get(path, np.nan) for path in paths] for epoch in epochs])
    colours = theme.DEPTH(np.linspace(0, 1, len(paths)))
    for series, colour in zip(rates.T, colours):
        axes.plot(x, series, color=colour, marker="o" if len(x) <= MARKED_EPOCHS else None, markersize=3)
    percent_axis(axes, "y", rates)
    target_line(axes, run, "y")
    epoch_axis(axes)
    axes.set(xlabel="epoch of the prune stage", ylabel="rate: share of the weights kept")
    if len(paths) <= NAMED_LAYERS:
        _name_line_ends(axes, rates[-1], labels.layers(paths), colours)
    else:
        bar = figure.colorbar(_depth_scale(len(paths)), ax=axes, ticks=[1, len(paths)], aspect=30)
        bar.ax.set_yticklabels(["first\nlayer", "last\nlayer"])
        bar.ax.invert_yaxis()
        bar.outline.set_visible(False)
    return figure


def _layer_rows(run: Run):
    """Makes a figure with a row for every layer of the network, the first on top."""
    layers = run.rates["layers"]
    figure = theme.figure(height=0.2 * len(layers) + 1.1)
    axes = figure.subplots()
    axes.set_yticks(range(len(layers)), labels.layers(list(layers)))
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.grid(False, axis="y")
    return figure, axes, list(layers.values())


def _name_line_ends(axes, values: np.ndarray, names: list[str], colours: np.ndarray) -> None:
    """Writes each line's name beside its end, moved apart where they would overlap."""
    low, high = np.log(axes.get_ylim())
    wanted = (np.log(values) - low) / (high - low)
    order = np.argsort(wanted)
    gap, places = 0.065, wanted.copy()
    for below, above in zip(order, order[1:]):
        places[above] = max(places[above], places[below] + gap)
    if len(order):
        places[order[-1]] = min(places[order[-1]], 1.0)
    for above, below in zip(order[::-1], order[-2::-1]):
        places[below] = min(places[below], places[above] - gap)
    for name, place, colour in zip(names, places, colours):
        # Only a dash in the colour of the line: as letters some of the colours are hard to read.
        axes.text(1.01, place, "–", transform=axes.transAxes, va="center", fontsize=12, color=colour, weight="bold")
        axes.text(1.05, place, name, transform=axes.transAxes, va="center", fontsize=SMALL)


def _depth_scale(count: int):
    return ScalarMappable(Normalize(1, count), theme.DEPTH)


def _short_count(count: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g}"
