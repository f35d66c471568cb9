"""Renders the documentation as web pages that need no network, to be read in a browser or on a phone.

Run `make docs`, or `python tools/write_pages.py --output=FOLDER`; then open README.html in that folder.
"""

import argparse
import itertools
import os
import re
import shutil
import sys
from collections import Counter
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SOURCES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "benchmarks/README.md")] + sorted(
    ROOT.glob("docs/*.md")
)
_SHORT = 18
"""Cells with at most so many characters stay on one line."""
_STYLE = """
main { max-width: 960px; }
p, li { color: var(--ink); }
h1, h2, h3 { overflow-wrap: anywhere; }
li { max-width: 75ch; }
pre { margin: 0; padding: 12px 14px; font-size: 0.875rem; line-height: 1.45; }
pre, code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
:not(pre) > code { font-size: 0.9em; overflow-wrap: anywhere; }
main th, main td { padding: 7px 12px; text-align: left; vertical-align: top; white-space: normal; }
main .short { white-space: nowrap; }
p:has(> img) { max-width: none; }
img { max-width: 100%; margin-bottom: 6px; vertical-align: top; border: 1px solid var(--grid); border-radius: 10px; }
"""


def anchor(title: str) -> str:
    """The anchor that a heading gets on the hosting sites."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def write(sources: list[Path], output: Path) -> list[Path]:
    """Writes a page for each Markdown file, laid out like the files, and the pictures beside them.

    Links between the files lead to their pages; other relative links lead to the files where they are.

    Args:
        sources: Markdown files; the first is the one that every page links to, and the others are below its folder.
        output: folder, made if need be.

    Returns:
        The paths of the pages.
    """
    return [_write(source, sources, output) for source in sources]


def _write(source: Path, sources: list[Path], output: Path) -> Path:
    from harp_tf.report import html

    def place(file: Path) -> Path:
        return output / file.relative_to(sources[0].parent).with_suffix(".html")

    target = place(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    parser = _parser()
    tokens = parser.parse(source.read_text(encoding="utf-8"))
    title = _name_headings(tokens) or source.stem
    for token in itertools.chain.from_iterable(block.children or () for block in tokens):
        if token.type == "link_open" and "://" not in (link := str(token.attrs["href"])) and not link.startswith("#"):
            name, mark, part = link.partition("#")
            file = (source.parent / name).resolve()
            token.attrs["href"] = os.path.relpath(place(file) if file in sources else file, target.parent) + mark + part
        elif token.type == "image":
            picture = str(token.attrs["src"])
            (target.parent / picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / picture, target.parent / picture)
    body = parser.renderer.render(tokens, parser.options, {})
    header = f'<p class="kicker"><a href="{os.path.relpath(place(sources[0]), target.parent)}">harp_tf</a></p>'
    return html.write(html.document(title, header, [body], _STYLE), target)


def _name_headings(tokens: list[Token]) -> str:
    """Gives every heading its anchor, with -1, -2 and so on if it occurs again; returns the first, the page's title."""
    found = [(token, after.content) for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    seen: Counter[str] = Counter()
    for token, title in found:
        name = anchor(title)
        token.attrSet("id", f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found[0][1].replace("`", "") if found else ""


def _parser() -> MarkdownIt:
    """Tables and code scroll in boxes of their own, which the keyboard can reach, where they are wider than a phone."""

    def fence(self, tokens, index, options, env):
        return f'<div class="scroll" tabindex="0"><pre><code>{escape(tokens[index].content)}</code></pre></div>\n'

    def table_open(self, tokens, index, options, env):
        return '<div class="scroll" tabindex="0">' + self.renderToken(tokens, index, options, env)

    def table_close(self, tokens, index, options, env):
        return self.renderToken(tokens, index, options, env) + "</div>\n"

    def td_open(self, tokens, index, options, env):
        if len(tokens[index + 1].content) <= _SHORT:
            tokens[index].attrSet("class", "short")
        return self.renderToken(tokens, index, options, env)

    parser = MarkdownIt("commonmark").enable("table")
    for rule in (fence, table_open, table_close, td_open):
        parser.add_render_rule(rule.__name__, rule)
    parser.add_render_rule("code_block", fence)
    return parser


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--output", type=Path, required=True, help="folder for the pages")
    folder = arguments.parse_args().output
    print(f"{len(write(SOURCES, folder.resolve()))} pages: open {folder / 'README.html'}")
