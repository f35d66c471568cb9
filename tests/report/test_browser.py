"""Both pages in a real browser: nothing is broken, nothing is missing, nothing sticks out on a phone."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest

from harp_tf.report import write_comparison, write_examples, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

WRAPPER = """<!doctype html><meta name="color-scheme" content="light dark"><body><iframe srcdoc="PAGE"
style="width: 400px; height: 900px; border: 0"></iframe><script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const all = (query, value) => [...page.querySelectorAll(query)].map(value);
  const box = element => element.getBoundingClientRect();
  const out = document.createElement("pre");
  out.id = "look";
  out.textContent = JSON.stringify({
    window: page.documentElement.clientWidth,
    page: page.documentElement.scrollWidth,
    wide: [...page.querySelectorAll("main *")].filter(e => !e.closest(".scroll, svg, details"))
      .filter(e => box(e).right > page.documentElement.clientWidth + 0.5).map(e => e.tagName),
    figures: all("figure", f => box(f.querySelector("svg, img") || f)).map(b => [b.width, b.height]),
    images: all("img", image => image.naturalWidth),
    texts: all("figure svg text", text => box(text).height),
    links: all("[href]", link => link.getAttribute("href")),
    anchors: all("[id]", element => element.id),
    background: page.defaultView.getComputedStyle(page.body).backgroundColor,
  });
  document.body.append(out);
};
</script></body>
"""


def look(page: Path, dark: bool = False) -> tuple[dict, list[str]]:
    """Opens a page on a phone of 400 pixels: what is to be seen, and the errors on the console."""
    phone = page.with_name("phone.html")  # a window cannot be as narrow as that
    phone.write_text(WRAPPER.replace("PAGE", escape(page.read_text(encoding="utf-8"))), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
    command += ["--window-size=800,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += [f"--user-data-dir={page.parent / 'chromium'}", "--dump-dom", phone.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="look">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def check(page: Path, figures: int) -> dict:
    """What must hold for every page."""
    seen, errors = look(page)
    assert errors == []
    assert seen["window"] == 400 and seen["page"] <= 400 and seen["wide"] == []
    assert len(seen["figures"]) == figures
    assert all(250 < width < 400 and height > 50 for width, height in seen["figures"])
    assert all(width > 0 for width in seen["images"])
    assert min(seen["texts"]) > 7  # pixels: small, but to be read
    for link in seen["links"]:
        if link.startswith("#"):
            assert link[1:] in seen["anchors"], link
        else:
            assert (page.parent / link).is_file(), link
    return seen


def test_the_page_of_a_run(run_dir, results):
    rng = np.random.default_rng(0)
    (run_dir / "plots").mkdir()
    images, labels = rng.random((8, 6, 6, 1)), np.arange(8)
    names = tuple("abcdefgh")
    write_examples(run_dir / "plots" / "adversarial_examples.png", images, images, labels, labels, names, "pgd20")
    curve = {"norm": "linf", "eps": [0.0, 0.1, 0.2], "robust_accuracy": [0.9, 0.5, 0.1]}
    results["pruned"]["security_curve"] = {"pgd20": curve}
    (run_dir / "results.json").write_text(json.dumps(results))
    row = {"name": "model_sparse.tflite", "threads": 1, "median_ms": 0.2, "p10_ms": 0.1, "p90_ms": 0.3, "ratio": 1.0}
    (run_dir / "latency.json").write_text(json.dumps({"rows": [row]}))
    seen = check(write_report(run_dir), figures=9 + 1 + 1)
    assert len(seen["images"]) == 1


def test_the_page_of_a_comparison(compared):
    page = write_comparison(compared())
    seen = check(page, figures=7)
    assert seen["background"] == "rgb(245, 247, 249)"
    dark, errors = look(page, dark=True)
    assert errors == [] and dark["background"] == "rgb(16, 19, 23)"


def test_what_is_broken_is_noticed(compared):
    page = write_comparison(compared())
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", '<div style="width: 500px">x</div><script>throw 1</script></main>'))
    seen, errors = look(page)
    assert errors and seen["page"] == 512 and len(seen["wide"]) == 1
