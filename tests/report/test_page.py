import base64
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import harp_tf
from harp_tf.report import write_report
from harp_tf.types import HarpError

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects what a browser would, and fails on a tag that is closed in the wrong place."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.words, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"line {self.getpos()[0]}"

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.words.append(data.strip())


def read(run_dir):
    text = write_report(run_dir).read_text(encoding="utf-8")
    return text, Reader(text)


def test_the_page_stands_alone(run_dir):
    text, page = read(run_dir)
    assert page.tags.count("svg") == 8 and "script" not in page.tags and "link" not in page.tags
    assert "var(--card)" in text and "#ffffff" not in text  # figures have the ground of the page
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_the_verdict_comes_first(run_dir):
    _, page = read(run_dir)
    body = page.words[page.words.index("HARP run") :]
    assert body[1] == "made_up"
    assert body[2].replace("\u00a0", " ").replace("\u2011", "-") == (
        "97.2 % of the weights removed: natural 97.1 → 96.0 (−1.1 points), PGD-20 90.2 → 89.0 (−1.2); "
        "the file shrinks 42×, from 1.0 MB to 24 kB."
    )


def test_the_page_tells_results_strategy_files_and_flags(run_dir):
    text, page = read(run_dir)
    words = " ".join(page.words)
    for expected in (
        "pruned (.tflite) 97.2 % 560 24 kB 15 kB",
        "560 of 19,856 weights are kept; the budget is 595. Target: 97.0 % sparsity.",
        "projected onto the budget",
        "model_sparse.tflite 24 kB",
        "eps 0.1",
        "augment null",
        "keras 3.15.1",
        "seed 3",
    ):
        assert expected in words
    assert "pruned.keras" not in words  # this run has no such file
    assert "Adversarial examples" not in words


def test_a_budget_of_multiply_adds_is_not_told_in_weights(run_dir):
    rates = json.loads((run_dir / "rates.json").read_text())
    rates |= {"budget_counts": "flops", "budget": 1000, "cost_kept": 998, "cost": 20_000}
    (run_dir / "rates.json").write_text(json.dumps(rates))
    _, page = read(run_dir)
    assert (
        "560 of 19,856 weights are kept, and 998 of 20,000 multiply-adds; of these, at most 1,000 may be."
        in " ".join(page.words)
    )


def test_weights_after_channels_are_told_in_those_of_the_dense_model(run_dir, results):
    config = json.loads((run_dir / "config.json").read_text())
    config["flags"] |= {"granularity": "channel,weight", "target_sparsity": 0.97}
    (run_dir / "config.json").write_text(json.dumps(config))
    rates = json.loads((run_dir / "rates.json").read_text())
    (run_dir / "rates.json").write_text(json.dumps(rates | {"weights": 9000, "target_sparsity": 0.93}))
    results["pruned"]["nonzero"] = 500
    (run_dir / "results.json").write_text(json.dumps(results))
    _, page = read(run_dir)
    assert (
        "First channels went, and left 9,000 of the 19,856 weights. Of what they left, 560 of 9,000 weights are kept; "
        "the budget is 595. The model that ships has 500 weights other than 0: 97.5 % of the dense model's 19,856 are "
        "gone. Target: 93.0 % sparsity of what the channels left, 97.0 % of the dense model."
    ) in " ".join(page.words)


def test_a_run_without_the_dense_model_has_a_verdict(run_dir, results):
    (run_dir / "results.json").write_text(json.dumps({k: results[k] for k in ("pruned", "tflite_sparse")}))
    _, page = read(run_dir)
    words = " ".join(page.words).replace("\u00a0", " ")
    assert "97.2 % of the weights removed: natural 96.0" in words and "points to dense" not in words


def test_latency_is_told_where_it_was_measured(run_dir):
    times = {"threads": 1, "median_ms": 0.25, "p10_ms": 0.2, "p90_ms": 0.5}
    rows = [{"name": "model.tflite", **times}, {"name": "model_sparse.tflite", **times, "ratio": 0.5}]
    (run_dir / "latency.json").write_text(json.dumps({"rows": rows}))
    text, page = read(run_dir)
    assert "model_sparse.tflite 1 0.250 0.200 to 0.500 0.50x" in " ".join(page.words)
    assert page.tags.count("svg") == 9


def test_light_and_dark_come_from_one_drawing(run_dir):
    text, _ = read(run_dir)
    assert "prefers-color-scheme: dark" in text
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert all("var(--ink)" in svg or "var(--muted)" in svg for svg in drawings)
    assert not any(colour in svg for svg in drawings for colour in ("#1b1f24", "#ffffff", "#0068b5"))


def test_nothing_of_a_run_becomes_markup(run_dir):
    evil = "</td><script>alert(1)</script>&amp;"
    (run_dir / "config.json").write_text(json.dumps({"flags": {evil: evil}, evil: [evil]}))
    rates = json.loads((run_dir / "rates.json").read_text())
    rates.update(strategy=evil, layers={evil: {"weights": 5, "kept": 1, "rate": 0.2}})
    (run_dir / "rates.json").write_text(json.dumps(rates))
    results = json.loads((run_dir / "results.json").read_text())
    results["dense"]["robust_accuracy"][evil] = results["pruned"]["robust_accuracy"][evil] = 0.5
    results[evil] = results["tflite"]
    (run_dir / "results.json").write_text(json.dumps(results))
    renamed = run_dir.rename(run_dir.parent / "a<b>&c")
    _, page = read(renamed)
    assert "script" not in page.tags and "b" in page.tags
    assert evil in page.words and "a<b>&c" in page.words


def test_adversarial_examples_are_embedded(run_dir):
    image = b"\x89PNG made up"
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "adversarial_examples.png").write_bytes(image)
    _, page = read(run_dir)
    (source,) = [reference for reference in page.references if reference.startswith("data:")]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == image


@pytest.mark.parametrize("kept", [[], ["metrics.jsonl"], ["config.json", "rates.json"], ["results.json"]])
def test_an_unfinished_run_has_a_page_too(run_dir, kept):
    for path in run_dir.iterdir():
        if path.name not in kept:
            path.unlink()
    _, page = read(run_dir)
    assert ("Not finished yet" in page.words) == ("results.json" not in kept)


def test_the_page_is_written_whole_or_not_at_all(run_dir, monkeypatch):
    page = write_report(run_dir)
    before, names = page.read_bytes(), sorted(path.name for path in run_dir.iterdir())

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(run_dir)
    assert page.read_bytes() == before
    assert sorted(path.name for path in run_dir.iterdir()) == names


def test_the_same_run_gives_the_same_page(run_dir):
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first


def test_no_such_run(tmp_path):
    with pytest.raises(HarpError, match="run directory"):
        write_report(tmp_path / "nowhere")


def test_report_loads_without_tensorflow():
    # The package's own __init__ may load TensorFlow, so a bare stand-in takes its place.
    package = str(Path(harp_tf.__file__).parent)
    code = (
        "import sys, types\n"
        "sys.modules['harp_tf'] = parent = types.ModuleType('harp_tf')\n"
        f"parent.__path__ = [{package!r}]\n"
        "import harp_tf.report\n"
        "assert not {'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
