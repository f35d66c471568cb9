"""Writes the tables of docs/results.md and the pictures of all pages from the comparisons under benchmarks/results.

Run `python tools/write_results.py` after adding runs to one of them; tests/test_results.py fails until the page is
right.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
FIGURES = ROOT / "docs" / "figures"
_MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables(name: str) -> str:
    """Who is ahead, and all figures of a comparison, as Markdown."""
    from harp_tf.report import labels
    from harp_tf.report.comparison.read import read_comparison
    from harp_tf.report.comparison.standing import standings
    from harp_tf.report.comparison.table import checks, everything, note

    record = read_comparison(RESULTS / name)
    parts = []
    for loss in record.losses:
        head, *rows = everything(record, loss)
        lines = [head, ["---"] * len(head), *rows]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in lines))
        for target in record.targets(loss):
            found = [one for one in standings(record, loss, target) if one.level or one.behind]
            parts.append("\n".join(f"- {labels.sparsity(target)} %, {one.sentence()}" for one in found))
    return "\n\n".join(filter(None, [*parts, note(record), checks(record).replace("*", "\\*")]))


def page(text: str) -> str:
    """The page with its tables written anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{tables(found[2])}\n\n{found[3]}", text)


def shown() -> list[Path]:
    """The pictures of comparisons that the pages show, FIGURES/COMPARISON/PICTURE.svg."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    links = [
        link for one in pages for link in re.findall(r"\(\S*figures/(\S+\.svg)\)", one.read_text(encoding="utf-8"))
    ]
    return sorted({FIGURES / link for link in links})


def draw(pictures: Sequence[Path]) -> dict[Path, str]:
    """Draws pictures of FIGURES from their comparisons, as the texts of SVG files."""
    from harp_tf.report import theme
    from harp_tf.report.comparison.plots import figures
    from harp_tf.report.comparison.read import read_comparison

    names = sorted({picture.parent.name for picture in pictures})
    drawn = {name: figures(read_comparison(RESULTS / name))[0] for name in names}
    return {picture: theme.svg(drawn[picture.parent.name][picture.stem]) for picture in pictures}


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for picture, text in draw(shown()).items():
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(text, encoding="utf-8")
