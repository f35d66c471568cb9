"""Writes the tables of docs/results.md from the comparisons under benchmarks/results.

Run `python tools/write_results.py` after adding runs to one of them; tests/test_results.py fails until the page is
right.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "results.md"
_MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables(name: str) -> str:
    """Who is ahead, and all figures of a comparison, as Markdown."""
    from harp_tf.report import labels
    from harp_tf.report.comparison.read import read_comparison
    from harp_tf.report.comparison.standing import standings
    from harp_tf.report.comparison.table import checks, everything, note

    record = read_comparison(ROOT / "benchmarks" / "results" / name)
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


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
