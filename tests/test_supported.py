"""The table of what can be pruned is the one that the script measured, and nothing on it failed."""

import json
from pathlib import Path

from benchmarks import supported

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_what_was_measured_and_has_every_row():
    rows = json.loads((ROOT / "benchmarks/results/supported/results.json").read_text(encoding="utf-8"))["rows"]
    assert {title: list(names) for title, names in rows.items()} == {t: list(m) for t, m in supported.MODELS.items()}
    assert (ROOT / "docs/supported.md").read_text(encoding="utf-8") == supported.page(rows)
    assert [answer for table in rows.values() for row in table.values() for answer in row.values() if answer] == []


def test_a_row_goes_the_whole_way():
    assert supported.measure(supported.MODELS["Layers"]["conv 2d"]) == dict.fromkeys(supported.COLUMNS, "")


def test_what_fails_is_told(monkeypatch):
    monkeypatch.setattr(supported, "strip", lambda model: lambda images: model(images) + 1.0)
    found = supported.measure(supported.MODELS["Layers"]["dense"])
    assert found["strips"] == "other logits" and found["loads"] == ""
