"""Axes that several pictures of a run share."""

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from harp_tf.report import theme
from harp_tf.report.run import Run

SMALL = 8.5  # points
MARKED_EPOCHS = 12  # A curve of more epochs is smooth enough without its points.


def percent_axis(axes, which: str, values: np.ndarray) -> None:
    """Makes an axis logarithmic, with shares as percentages on it, densely where it spans few decades."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    span = np.nanmax(values) / np.nanmin(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 30 else (1, 3) if span < 1000 else (1,)))
    # No layer keeps more than all its weights.
    digits = 2 if span > 1.5 else 3 if span > 1.05 else 4
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{percentage(share, digits)} %" if share <= 1 else ""))
    axis.set_minor_formatter(NullFormatter())


def target_line(axes, run: Run, which: str) -> None:
    """Draws the share of weights that the whole network is to keep, if it is known; `which` axis has shares."""
    sparsity = run.rates.get("target_sparsity")
    if sparsity is None:
        return
    draw = axes.axhline if which == "y" else axes.axvline
    draw(1 - sparsity, color=theme.LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
    text = f"target {percentage(1 - sparsity)} %"
    style = {"color": theme.LIGHT["muted"], "fontsize": SMALL, "textcoords": "offset points"}
    if which == "y":
        axes.annotate(text, (0, 1 - sparsity), (3, 3), xycoords=axes.get_yaxis_transform(), **style)
    else:
        place = (1 - sparsity, 1)
        axes.annotate(text, place, (0, 3), xycoords=axes.get_xaxis_transform(), ha="center", **style)


def epoch_axis(axes, ticks: int = 5) -> None:
    """Makes the horizontal axis one of whole epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1))
    axes.grid(False, axis="x")


def logged(epochs: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epochs, counted from 1, that logged `key`, and its values there."""
    pairs = [(e["epoch"] + 1, e["logs"][key]) for e in epochs if e["logs"].get(key) is not None]
    x, y = zip(*pairs) if pairs else ((), ())
    return np.array(x, float), np.array(y, float)


def percentage(share: float, digits: int = 2) -> str:
    """Writes a share in percent with so many digits, one more near 100: 0.0123 → "1.2"."""
    return f"{100 * share:.{digits if share < 0.995 else digits + 1}g}"
