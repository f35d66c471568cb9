"""The documentation as web pages: whole, and readable on a phone without a network."""

import re
import sys
from pathlib import Path

import pytest

from tests.browser import check, look, needs_chromium

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import write_pages  # noqa: E402

SMALL = """# A `small` page

## Again

[back](#again-1), [there](more/other.md#a-title), [file](more/data.csv), [far](https://example.org/x.md)

| a | b |
|---|---|
| 1 & 2 | longer than any cell that should stay on a single line |

## Again

![bars](more/bars.png)
"""


@pytest.fixture
def small(tmp_path):
    """Two pages of Markdown, and what they link to."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.md").write_text("# A title\n\n```bash\nls < a && b\n```\n")
    (tmp_path / "more" / "data.csv").write_text("1\n")
    (tmp_path / "more" / "bars.png").write_bytes(b"a picture")
    (tmp_path / "README.md").write_text(SMALL)
    return [tmp_path / "README.md", tmp_path / "more" / "other.md"]


def test_a_page(small, tmp_path):
    home, other = write_pages.write(small, tmp_path / "out")
    text = home.read_text(encoding="utf-8")
    assert home == tmp_path / "out" / "README.html" and other == tmp_path / "out" / "more" / "other.html"
    assert "<title>A small page · HARP</title>" in text
    assert re.findall(r'<h\d id="([^"]*)"', text) == ["a-small-page", "again", "again-1"]
    links = ["README.html", "#again-1", "more/other.html#a-title", "../more/data.csv", "https://example.org/x.md"]
    assert re.findall(r'<a href="([^"]*)"', text) == links
    assert '<td class="short">1 &amp; 2</td>' in text and "<td>longer" in text
    assert (home.parent / "more" / "bars.png").read_bytes() == b"a picture"
    assert "<pre><code>ls &lt; a &amp;&amp; b\n</code></pre>" in other.read_text(encoding="utf-8")
    assert '<a href="../README.html">harp_tf</a>' in other.read_text(encoding="utf-8")


@needs_chromium
def test_a_broken_link_is_noticed(small, tmp_path):
    (tmp_path / "more" / "other.md").write_text("# A title\n\n[gone](gone.md)\n")
    with pytest.raises(AssertionError, match="gone.md"):
        check(write_pages.write(small[1:], tmp_path / "out"), tmp_path)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return write_pages.write(write_pages.SOURCES, tmp_path_factory.mktemp("pages"))


def test_no_page_needs_another_machine_or_shows_markdown(pages):
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and "<link" not in text and 'src="http' not in text, page
        prose = re.sub(r"<pre>.*?</pre>|<style>.*?</style>", "", text, flags=re.DOTALL)
        assert "```" not in prose and "|---" not in prose, page


@needs_chromium
def test_every_page_is_whole_and_fits_a_phone(pages, tmp_path):
    seen = check(pages, tmp_path)
    assert all(one["anchors"] for one in seen)
    dark, errors = look(pages, tmp_path, dark=True)
    assert errors == [] and {one["background"] for one in dark} == {"rgb(16, 19, 23)"}
