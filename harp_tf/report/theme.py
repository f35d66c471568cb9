"""One look for plots and page: colours that colour-blind readers can tell apart, on light and dark ground."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

# Every light colour is unique, so that the page can swap it for a CSS variable in an SVG drawn with it.
LIGHT = {
    "ink": "#1b1f24",
    "muted": "#5b6470",
    "grid": "#dfe3e8",
    "soft": "#c3ced9",
    "blue": "#0068b5",
    "orange": "#c84e00",
    "green": "#00815e",
    "pink": "#a8488f",
}
DARK = {
    "ink": "#e8eaed",
    "muted": "#a2abb6",
    "grid": "#30363d",
    "soft": "#4a5563",
    "blue": "#5cb3ff",
    "orange": "#ff9454",
    "green": "#3fcf9f",
    "pink": "#eb9bd9",
}
GROUND = "#ffffff"
SERIES = [LIGHT["blue"], LIGHT["orange"], LIGHT["green"], LIGHT["pink"]]
# From the first layer to the last: of middling lightness throughout, to be seen on white and on black.
DEPTH = LinearSegmentedColormap.from_list("depth", ["#2f7fd6", "#7d86a8", "#d9730d"])

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # A layer may have a dollar in its name.
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlecolor": LIGHT["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "harp_tf",  # The same run gives the same file.
}


def figure(height: float = 3.0) -> Figure:
    """Makes an empty figure, that many inches high and narrow enough to stay legible on a phone."""
    made = Figure(figsize=(4.4, height), layout="constrained", facecolor=GROUND)
    FigureCanvasAgg(made)
    return made


def save(figures: Mapping[str, Figure], folder: Path) -> dict[str, str]:
    """Writes figures as PNG and SVG, under their names, into a folder that is made if need be; returns the SVGs."""
    folder.mkdir(exist_ok=True)
    svgs = {}
    for name, drawn in figures.items():
        with rc_context(STYLE):
            drawn.savefig(folder / f"{name}.png", dpi=220)
            drawn.set_layout_engine("none")  # everything has its place now, and finding it takes half the time
        svgs[name] = svg(drawn)
        (folder / f"{name}.svg").write_text(svgs[name], encoding="utf-8")
    return svgs


def svg(figure: Figure) -> str:
    """A figure as the text of an SVG file."""
    text = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    # Where DejaVu is missing, the closest of the fonts that others have, instead of one with serifs.
    return text.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def inline_svg(text: str, name: str) -> str:
    """Makes a figure fit for the page: colours as CSS variables, ids that no other figure has.

    Args:
        text: an SVG of `save`.
        name: prefix of its ids, unique on the page.

    Returns:
        An <svg> element.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for role, colour in {**LIGHT, "card": GROUND}.items():
        text = text.replace(colour, f"var(--{role})")
    return text
