"""What every page is made of: the frame, sections, tables, figures, and plain text made fit for print."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harp_tf.report import theme
from harp_tf.report.stylesheet import stylesheet


def document(title: str, header: str, sections: Sequence[str], style: str = "") -> str:
    """A whole page that needs no other file.

    Args:
        title: plain text for the browser's tab.
        header: HTML of the page's head, with its <h1>.
        sections: HTML, see `section`.
        style: CSS that this page has besides that of all pages.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · HARP</title>
<style>{stylesheet()}{style}</style>
</head>
<body>
<main>
<header>
{header}
</header>
{"".join(sections)}
</main>
</body>
</html>
"""


def write(page: str, target: Path) -> Path:
    """Writes a page, whole or not at all, and returns its path."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}", suffix=".html")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(temporary, 0o644)  # mkstemp makes it readable for its owner only.
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


def section(title: str, *parts: str) -> str:
    """A section of the page; "" if all its parts are empty."""
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>\n" if any(parts) else ""


def draw(figures: Mapping[str, Figure], folder: Path) -> dict[str, str]:
    """Writes figures as PNG and SVG into a folder and returns them as SVG elements, all by name."""
    return {name: theme.inline_svg(svg, name) for name, svg in theme.save(figures, folder).items()}


def figures(svgs: Mapping[str, str], captions: Mapping[str, str], *names: str) -> str:
    """The named figures side by side, with their captions; those that were not drawn are left out."""
    shown = "".join(
        f'<figure><div role="img" aria-label="{escape(captions[name])}">{svgs[name]}</div>'
        f"<figcaption>{escape(captions[name])}</figcaption></figure>"
        for name in names
        if name in svgs
    )
    return f'<div class="pair">{shown}</div>' if shown else ""


def table(rows: Sequence[Sequence[str]], kind: str = "", link: Callable[[str], str | None] = lambda name: None) -> str:
    """A table of plain texts, the first row its head and the first column the names of the rows.

    Args:
        rows: the texts.
        kind: CSS class.
        link: where the name of a row leads; None: nowhere.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = ""
    for name, *cells in rows[1:]:
        data = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        to = link(name)
        label = f'<a href="{escape(to)}">{escape(name)}</a>' if to else escape(name)
        body += f'<tr><th scope="row">{label}</th>{data}</tr>'
    # Focusable, so that the keyboard can scroll it.
    whole = f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f'<div class="{kind}">{whole}</div>' if kind else whole


def cards(rows: Sequence[tuple[str, str, str]]) -> str:
    """Boxes with a number, what it is, and a note."""
    boxes = "".join(
        f"<li><strong>{typeset(number)}</strong><span>{typeset(what)}</span><em>{typeset(note)}</em></li>"
        for number, what, note in rows
    )
    return f'<ul class="cards">{boxes}</ul>'


def foldable(title: str, rows: Mapping[str, Any]) -> str:
    """Names and values, folded away until they are asked for."""
    lines = ""
    for key, value in rows.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines += f'<tr><th scope="row">{escape(key)}</th><td>{escape(text)}</td></tr>'
    return (
        f"<details><summary>{escape(title)} ({len(rows)})</summary>"
        f'<div class="scroll" tabindex="0"><table class="pairs">{lines}</table></div></details>'
    )


def settings(config: Mapping[str, Any]) -> str:
    """The groups of a config.json: flags, versions, machine; what is in no group comes first."""
    groups = {name: value for name, value in config.items() if isinstance(value, dict)}
    single = {name: value for name, value in config.items() if not isinstance(value, dict)}
    return "".join(foldable(name, values) for name, values in {**({"run": single} if single else {}), **groups}.items())


def typeset(text: str) -> str:
    """Escapes plain text of the terminal, gives it arrows, minus and times signs, and breaks no number."""
    signs = {
        "->": "→",
        r"(?<=\d)x\b": "×",
        r"(?<!\w)-(?=\d)": "−",
        r"(?<=\w)-(?=\w)": "\u2011",  # non-breaking
        r"(?<=\d) (?=[%kMG])": "\u00a0",
    }
    for pattern, sign in signs.items():
        text = re.sub(pattern, sign, text)
    return escape(text)
