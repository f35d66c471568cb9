"""The page of results says what the committed comparisons say."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import write_results  # noqa: E402


def test_the_page_is_up_to_date():
    text = write_results.PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"^<!-- \w+ -->$", text, re.MULTILINE)) >= 4  # beginnings and ends
    assert write_results.page(text) == text, "run python tools/write_results.py"


def test_other_figures_would_be_noticed():
    text = write_results.PAGE.read_text(encoding="utf-8")
    changed = re.sub(r"(\| HARP \| 99.0 % \| )\d", r"\g<1>9", text, count=1)
    assert changed != text and write_results.page(changed) == text
