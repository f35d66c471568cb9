import json

import pytest

from harp_tf.report import write_comparison
from harp_tf.report.comparison import plots
from tests.report.test_page import Reader


@pytest.fixture
def undrawn(monkeypatch):
    """The pictures take their time."""
    monkeypatch.setattr(plots, "figures", lambda record: ({}, {}))


def read(folder):
    text = write_comparison(folder).read_text(encoding="utf-8")
    return text, Reader(text)


def test_the_page_stands_alone(compared):
    text, page = read(compared())
    assert page.tags.count("svg") == 7 and "script" not in page.tags and "link" not in page.tags
    local = [reference for reference in page.references if not reference.startswith("#")]
    assert local[0] == "cells/dense_0_0/report.html" and len(local) == 9
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_the_verdict_comes_first(undrawn, compared):
    _, page = read(compared())
    body = page.words[page.words.index("HARP comparison") :]
    assert body[1] == "compared" and body[2].startswith("HARP wins 2 of 4")
    assert body[3].startswith("Unpruned: dense: natural 78.0")


def test_the_page_tells_everything(undrawn, compared):
    _, page = read(compared())
    words = " ".join(page.words).replace("\u00a0", " ")
    for expected in (
        "HARP 77.0 ± 1.4 57.0 67.0 ± 1.4 64.0 ± 1.4 2",
        "global magnitude −7.0 (3.8 se)",
        "HARP keeps more of conv1 (69 % against 2.8 %), logits (12 % against 3 %) and less of block/conv2",
        "The budgets after the dense model differ.",
        "random_97_0 failed",
        "random_97_0 python -m harp_tf.train --run_dir=runs/random_97_0",
        "failed random_97_0: out of luck",
        "keras 3.15.1",
    ):
        assert expected in words, expected


def test_a_cell_without_a_page_is_no_link(undrawn, compared):
    folder = compared()
    (folder / "cells" / "lwm_97_0" / "report.html").unlink()
    _, page = read(folder)
    assert "cells/lwm_97_0/report.html" not in page.references and "lwm_97_0" in page.words


def test_an_unfinished_comparison_has_a_page_too(undrawn, compared, cells):
    for one in cells:
        one["status"] = "waiting"
        one.pop("figures", None)
    _, page = read(compared(cells))
    assert "Not finished yet" in page.words and "9 of 9 runs are still to be made." in page.words


def test_nothing_of_a_comparison_becomes_markup(undrawn, compared, cells):
    evil = "</td><script>alert(1)</script>"
    cells[2]["command"] = cells[-1]["message"] = evil
    folder = compared(cells)
    record = json.loads((folder / "comparison.json").read_text())
    record["flags"] = {evil: evil}
    (folder / "comparison.json").write_text(json.dumps(record))
    _, page = read(folder)
    assert "script" not in page.tags and evil in page.words


def test_losses_are_told_apart(undrawn, compared, cells):
    mart = [{**one, "loss": "mart", "name": f"mart_{one['name']}"} for one in cells]
    _, page = read(compared([*cells, *mart]))
    words = " ".join(page.words).replace("\u00a0", " ")
    assert "Training loss: pgd" in words and "97.0 % sparsity, mart" in words
