"""Pages in a real browser: nothing is broken, nothing is missing, nothing sticks out on a phone."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

# A window cannot be as narrow as a phone, a frame can.
_FRAME = '<iframe src="PAGE" style="width: 400px; height: 900px; border: 0"></iframe>'
_WRAPPER = """<!doctype html><meta name="color-scheme" content="light dark"><body>FRAMES<script>
const look = page => {
  const all = (query, value) => [...page.querySelectorAll(query)].map(value);
  const box = element => element.getBoundingClientRect();
  return {
    window: page.documentElement.clientWidth,
    page: page.documentElement.scrollWidth,
    wide: [...page.querySelectorAll("main *")].filter(e => !e.closest(".scroll, svg, details"))
      .filter(e => box(e).right > page.documentElement.clientWidth + 0.5).map(e => e.tagName),
    figures: all("figure", f => box(f.querySelector(".scroll, svg, img") || f)).map(b => [b.width, b.height]),
    images: all("img", image => [image.naturalWidth, box(image).width]),
    texts: all("figure svg text", text => box(text).height),
    links: all("[href]", link => link.getAttribute("href")),
    anchors: all("[id]", element => element.id),
    background: page.defaultView.getComputedStyle(page.body).backgroundColor,
  };
};
onload = () => {
  const out = document.createElement("pre");
  out.id = "look";
  out.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(f => look(f.contentDocument)));
  document.body.append(out);
};
</script></body>
"""


def look(pages: list[Path], folder: Path, dark: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Opens pages on a phone of 400 pixels: what is to be seen on each, and all errors on the console.

    Args:
        pages: HTML files.
        folder: where the browser may write.
        dark: whether its user prefers dark pages.
    """
    phone = folder / "phone.html"
    frames = "".join(_FRAME.replace("PAGE", escape(page.resolve().as_uri())) for page in pages)
    phone.write_text(_WRAPPER.replace("FRAMES", frames), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
    command += ["--window-size=800,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={folder / 'chromium'}"]
    command += ["--dump-dom", phone.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="look">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def check(pages: list[Path], folder: Path) -> list[dict[str, Any]]:
    """Looks at pages and asserts what must hold for each; arguments and the pages' looks as for `look`."""
    seen, errors = look(pages, folder)
    assert errors == []
    anchors = {page.resolve(): one["anchors"] for page, one in zip(pages, seen)}
    for page, one in zip(pages, seen):
        assert one["window"] == 400 and one["page"] <= 400 and one["wide"] == [], (page, one["wide"])
        assert all(250 < width < 400 and height > 50 for width, height in one["figures"]), page
        assert all(width > 0 and shown > 250 for width, shown in one["images"]), page
        assert min(one["texts"], default=8) > 7, page  # pixels: small, but to be read
        assert len(set(one["anchors"])) == len(one["anchors"]), page
        for link in one["links"]:
            if "://" not in link:
                name, _, anchor = link.partition("#")
                file = (page.parent / name if name else page).resolve()
                assert file.exists(), (page, link)
                assert not anchor or anchor in anchors[file], (page, link)
    return seen
