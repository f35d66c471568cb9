"""The pictures of a run: what it reached, how it got there, and what HARP kept in each layer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from harp_tf.report import curves, labels, table, theme
from harp_tf.report.run import Run, read_run

SMALL = 8.5  # points
MARKED_EPOCHS = 12  # A curve of more epochs is smooth enough without its points.
NAMED_LAYERS = 10  # More layers than that get a colour bar in place of their names.


def write_plots(run_dir: str | Path) -> list[Path]:
    """Draws every picture that the run has data for, as PNG and SVG, into `run_dir`/plots.

    Args:
        run_dir: folder that `harp_tf.train` wrote, finished or not.

    Returns:
        The files written.

    Raises:
        HarpError: there is no such folder, or a file of it is not what it should be.
    """
    run = read_run(run_dir)
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    written = []
    for name, figure in figures(run).items():
        with rc_context(theme.STYLE):
            figure.savefig(folder / f"{name}.png", dpi=220)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        written += [folder / f"{name}.png", folder / f"{name}.svg"]
    return written


def figures(run: Run) -> dict[str, Figure]:
    """Draws every picture that `run` has data for, by its file name without the ending."""
    drawn = {}
    with rc_context(theme.STYLE):
        for name, draw in FIGURES.items():
            figure = draw(run)
            if figure is not None:
                drawn[name] = figure
    return drawn


def _results(run: Run) -> Figure | None:
    """Natural and robust accuracy of every model on the test set."""
    results = run.results.values()
    kinds = {"natural": [r.get("natural_accuracy") for r in results]}
    for attack in table.attacks(run.results):
        kinds[labels.attack(attack)] = [r.get("robust_accuracy", {}).get(attack) for r in results]
    kinds = {kind: shares for kind, shares in kinds.items() if any(share is not None for share in shares)}
    if not kinds:
        return None
    figure = theme.figure()
    axes = figure.subplots()
    width = 0.8 / len(kinds)
    for i, (kind, shares) in enumerate(kinds.items()):
        heights = [100 * share if share is not None else 0 for share in shares]
        places = np.arange(len(shares)) + (i - (len(kinds) - 1) / 2) * width
        bars = axes.bar(places, heights, 0.92 * width, color=theme.SERIES[i % len(theme.SERIES)], label=kind)
        if len(kinds) <= 3:
            texts = [labels.percent(share) if share is not None else "" for share in shares]
            axes.bar_label(bars, texts, padding=2, fontsize=SMALL)
    names = [labels.model(name).replace(" (", "\n(") for name in run.results]
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, 100), ylabel="test accuracy, %")
    axes.grid(False, axis="x")
    figure.legend(loc="outside upper center", ncols=min(len(kinds), 4))
    return figure


def _sizes(run: Run) -> Figure | None:
    """Size of every file, raw and gzipped."""
    kept = {name: r for name, r in run.results.items() if r.get("file_bytes")}
    if not kept:
        return None
    figure = theme.figure(height=0.5 * len(kept) + 1)
    axes = figure.subplots()
    places = np.arange(len(kept))
    for offset, key, colour, label in (
        (-0.2, "file_bytes", theme.LIGHT["blue"], "file"),
        (0.2, "gzip_bytes", theme.LIGHT["soft"], "gzip"),
    ):
        counts = [r.get(key) or 0 for r in kept.values()]
        bars = axes.barh(places + offset, counts, 0.36, color=colour, label=label)
        texts = [labels.size(count) if count else "" for count in counts]
        axes.bar_label(bars, texts, padding=3, fontsize=SMALL)
    axes.set_yticks(places, [labels.model(name) for name in kept])
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: labels.size(count)))
    axes.grid(False, axis="y")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _accuracy(run: Run) -> Figure | None:
    """Accuracy over the epochs: training data dashed, validation data solid."""
    blue, orange = theme.LIGHT["blue"], theme.LIGHT["orange"]
    curves = {
        "natural_accuracy": ("natural, training", blue, "--"),
        "val_natural_accuracy": ("natural, validation", blue, "-"),
        "adversarial_accuracy": ("adversarial, training", orange, "--"),
        "val_adversarial_accuracy": ("adversarial, validation", orange, "-"),
    }
    return _over_stages(run, curves, "accuracy, %", 100)


def _loss(run: Run) -> Figure | None:
    """Loss on training data over the epochs, with its natural and its robust term."""
    curves = {
        "loss": ("total", theme.LIGHT["ink"], "-"),
        "natural_loss": ("natural", theme.LIGHT["blue"], "-"),
        "robust_loss": ("robust", theme.LIGHT["orange"], "-"),
    }
    return _over_stages(run, curves, "training loss", 1)


def _over_stages(run: Run, curves: dict[str, tuple[str, str, str]], ylabel: str, scale: float) -> Figure | None:
    """Draws one panel per stage with the curves that its epochs logged, all on one vertical axis."""
    stages = {
        stage: epochs for stage, epochs in run.stages.items() if any(len(_curve(epochs, key)[0]) for key in curves)
    }
    if not stages:
        return None
    figure = theme.figure()
    # A stage of one epoch beside one of a hundred still needs room for its name.
    longest = max(map(len, stages.values()))
    widths = [max(len(epochs), 0.35 * longest) for epochs in stages.values()]
    panels = figure.subplots(1, len(stages), sharey=True, squeeze=False, width_ratios=widths)[0]
    shown = {}
    for axes, width, (stage, epochs) in zip(panels, widths, stages.items()):
        for key, (label, colour, line) in curves.items():
            x, y = _curve(epochs, key)
            if len(x):
                marker = "o" if len(epochs) <= MARKED_EPOCHS else None
                (shown[label],) = axes.plot(x, scale * y, line, color=colour, marker=marker, markersize=3.5)
        axes.set_title(stage)
        _epoch_axis(axes, ticks=max(1, round(6 * width / sum(widths))))
    panels[0].set_ylabel(ylabel)
    figure.supxlabel("epoch", fontsize=9.5, color=theme.LIGHT["muted"])
    columns = 2 if len(shown) == 4 else len(shown)
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=columns)
    return figure


def _compression(run: Run) -> Figure | None:
    """Rate of the network, L_hw and γ over the epochs of the prune stage."""
    epochs = run.stages.get("prune", [])
    curves = {
        "rate": ("weights kept", theme.LIGHT["blue"]),
        "hw_loss": ("size penalty L_hw", theme.LIGHT["orange"]),
        "gamma": ("its factor γ", theme.LIGHT["green"]),
    }
    curves = {key: curve for key, curve in curves.items() if len(_curve(epochs, key)[0])}
    if not curves:
        return None
    figure = theme.figure(height=0.5 + 1.35 * len(curves))
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, (label, colour)) in zip(panels, curves.items()):
        x, y = _curve(epochs, key)
        axes.plot(x, y, color=colour, marker="o" if len(epochs) <= MARKED_EPOCHS else None, markersize=3.5)
        axes.set_title(label, loc="left", color=theme.LIGHT["ink"])
        if key == "rate":
            _target_line(axes, run, "y")
            _percent_axis(axes, "y", y)
        else:
            axes.set_ylim(bottom=min(0, *y) - 0.04 * np.ptp(np.append(y, 0)))
    _epoch_axis(panels[-1])
    panels[-1].set_xlabel("epoch of the prune stage")
    return figure


def _strategy_weights(run: Run) -> Figure | None:
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
    axes.set_xlabel("weights (written: kept)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _strategy_rates(run: Run) -> Figure | None:
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
        text = f"{_percentage(rate)} %"
        axes.text(1, place, text, transform=right, ha="right", va="center", fontsize=SMALL)
    _target_line(axes, run, "x")
    _percent_axis(axes, "x", rates)
    axes.set_xlim(low, 1 / low**0.25)
    axes.set_xlabel("share of the layer's weights kept")
    return figure


def _layer_rates(run: Run) -> Figure | None:
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
    _percent_axis(axes, "y", rates)
    _target_line(axes, run, "y")
    _epoch_axis(axes)
    axes.set(xlabel="epoch of the prune stage", ylabel="rate: share of the weights kept")
    if len(paths) <= NAMED_LAYERS:
        _name_line_ends(axes, rates[-1], labels.layers(paths), colours)
    else:
        bar = figure.colorbar(_depth_scale(len(paths)), ax=axes, ticks=[1, len(paths)], aspect=30)
        bar.ax.set_yticklabels(["first\nlayer", "last\nlayer"])
        bar.ax.invert_yaxis()
        bar.outline.set_visible(False)
    return figure


FIGURES: dict[str, Callable[[Run], Figure | None]] = {
    "results": _results,
    "sizes": _sizes,
    "security_curve": curves.security_curve,
    "accuracy": _accuracy,
    "loss": _loss,
    "strategy_weights": _strategy_weights,
    "strategy_rates": _strategy_rates,
    "layer_rates": _layer_rates,
    "compression": _compression,
}


def _curve(epochs: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epochs, counted from 1, that logged `key`, and its values there."""
    pairs = [(e["epoch"] + 1, e["logs"][key]) for e in epochs if e["logs"].get(key) is not None]
    x, y = zip(*pairs) if pairs else ((), ())
    return np.array(x, float), np.array(y, float)


def _epoch_axis(axes, ticks: int = 5) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1))
    axes.grid(False, axis="x")


def _percent_axis(axes, which: str, values: np.ndarray) -> None:
    """Makes an axis logarithmic, with shares as percentages on it, densely where it spans few decades."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    span = np.nanmax(values) / np.nanmin(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 30 else (1, 3) if span < 1000 else (1,)))
    # No layer keeps more than all its weights.
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{_percentage(share)} %" if share <= 1 else ""))
    axis.set_minor_formatter(NullFormatter())


def _target_line(axes, run: Run, which: str) -> None:
    sparsity = run.rates.get("target_sparsity")
    if sparsity is None:
        return
    draw = axes.axhline if which == "y" else axes.axvline
    draw(1 - sparsity, color=theme.LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
    text = f"target {_percentage(1 - sparsity)} %"
    style = {"color": theme.LIGHT["muted"], "fontsize": SMALL, "textcoords": "offset points"}
    if which == "y":
        axes.annotate(text, (0, 1 - sparsity), (3, 3), xycoords=axes.get_yaxis_transform(), **style)
    else:
        place = (1 - sparsity, 1)
        axes.annotate(text, place, (0, 3), xycoords=axes.get_xaxis_transform(), ha="center", **style)


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
        axes.text(1.02, place, name, transform=axes.transAxes, va="center", fontsize=SMALL, color=colour)


def _depth_scale(count: int):
    return ScalarMappable(Normalize(1, count), theme.DEPTH)


def _percentage(share: float) -> str:
    return f"{100 * share:.2g}" if share < 0.995 else f"{100 * share:.3g}"


def _short_count(count: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g}"
