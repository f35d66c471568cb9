"""The pictures of a run: what it reached, how it got there, and what HARP kept in each layer."""

from collections.abc import Callable

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harp_tf.report import curves, labels, strategy, table, theme
from harp_tf.report.axes import MARKED_EPOCHS, SMALL, epoch_axis, logged, percent_axis, target_line
from harp_tf.report.run import Run


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
        if len(kinds) * len(results) <= 8:  # else they run into each other
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
        stage: epochs for stage, epochs in run.stages.items() if any(len(logged(epochs, key)[0]) for key in curves)
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
            x, y = logged(epochs, key)
            if len(x):
                marker = "o" if len(epochs) <= MARKED_EPOCHS else None
                (shown[label],) = axes.plot(x, scale * y, line, color=colour, marker=marker, markersize=3.5)
        axes.set_title(stage)
        epoch_axis(axes, ticks=max(1, round(6 * width / sum(widths))))
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
    curves = {key: curve for key, curve in curves.items() if len(logged(epochs, key)[0])}
    if not curves:
        return None
    figure = theme.figure(height=0.5 + 1.35 * len(curves))
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, (label, colour)) in zip(panels, curves.items()):
        x, y = logged(epochs, key)
        axes.plot(x, y, color=colour, marker="o" if len(epochs) <= MARKED_EPOCHS else None, markersize=3.5)
        axes.set_title(label, loc="left", color=theme.LIGHT["ink"])
        if key == "rate":
            target_line(axes, run, "y")
            percent_axis(axes, "y", y)
        else:
            axes.set_ylim(bottom=min(0, *y) - 0.04 * np.ptp(np.append(y, 0)))
    epoch_axis(panels[-1])
    panels[-1].set_xlabel("epoch of the prune stage")
    return figure


def _latency(run: Run) -> Figure | None:
    """Median time of one image through each file, with the 10th and the 90th percentile."""
    if not run.latency:
        return None
    threads = sorted({row["threads"] for row in run.latency})
    names = list(dict.fromkeys(row["name"] for row in run.latency))
    figure = theme.figure(height=0.35 * len(run.latency) + 1.1)
    axes = figure.subplots()
    for offset, count in enumerate(threads):
        rows = [row for row in run.latency if row["threads"] == count]
        places = [names.index(row["name"]) + (offset - (len(threads) - 1) / 2) * 0.8 / len(threads) for row in rows]
        middles = [row["median_ms"] for row in rows]
        spread = [
            [row["median_ms"] - row["p10_ms"] for row in rows],
            [row["p90_ms"] - row["median_ms"] for row in rows],
        ]
        colour = theme.SERIES[offset % len(theme.SERIES)]
        label = f"{count} thread{'s' * (count > 1)}"
        bars = axes.barh(
            places,
            middles,
            0.74 / len(threads),
            xerr=np.maximum(spread, 0),
            color=colour,
            ecolor=theme.LIGHT["muted"],
            label=label,
        )
        axes.bar_label(bars, [f"{middle:.3g} ms" for middle in middles], padding=4, fontsize=SMALL)
    axes.set_yticks(range(len(names)), labels.layers(names))
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("time of one image, ms")
    axes.grid(False, axis="y")
    figure.legend(loc="outside upper center", ncols=len(threads))
    return figure


FIGURES: dict[str, Callable[[Run], Figure | None]] = {
    "results": _results,
    "sizes": _sizes,
    "security_curve": curves.security_curve,
    "accuracy": _accuracy,
    "loss": _loss,
    "strategy_weights": strategy.strategy_weights,
    "strategy_rates": strategy.strategy_rates,
    "layer_rates": strategy.layer_rates,
    "compression": _compression,
    "latency": _latency,
}
