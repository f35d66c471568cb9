"""The page of results says what the committed comparisons say."""

import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

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


def test_the_pictures_are_those_that_the_pages_show():
    assert sorted(write_results.FIGURES.glob("*/*")) == write_results.shown() != []


def parts(svg):
    """The text of a picture without its numbers, and the numbers; ids are hashes of what they name."""
    svg = re.sub(r"\b[a-z][0-9a-f]{10}\b", "id", svg)
    numbers = re.compile(r"-?\d+(?:\.\d+)?")
    return numbers.sub("0", svg), [float(number) for number in numbers.findall(svg)]


def same(one, other):
    """Whether two pictures are the same but for what another version of a font or of libm moves."""
    (text, numbers), (expected_text, expected) = parts(one), parts(other)
    return text == expected_text and np.allclose(numbers, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("comparison", sorted({picture.parent.name for picture in write_results.shown()}))
def test_the_pictures_are_up_to_date(comparison):
    pictures = [picture for picture in write_results.shown() if picture.parent.name == comparison]
    for picture, drawn in write_results.draw(pictures).items():
        assert same(picture.read_text(encoding="utf-8"), drawn), f"{picture.name}: run python tools/write_results.py"


def test_another_picture_would_be_noticed():
    text = write_results.shown()[0].read_text(encoding="utf-8")
    assert same(text, text)
    assert not same(text, text.replace("HARP", "HYDRA", 1))
    assert not same(
        text, re.sub(r'(<use [^>]*y=")(\d+)', lambda found: f"{found[1]}{int(found[2]) + 1}", text, count=1)
    )


MODELS = write_results.RESULTS / "compare_fashion_mnist" / "models"


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted(MODELS.iterdir())])
def test_a_committed_network_is_the_one_that_was_measured(path):
    model = keras.models.load_model(path)
    kernels = {layer.name: layer.kernel for layer in model.layers if hasattr(layer, "kernel")}
    rates = json.loads((MODELS.parent / "cells" / path.stem / "rates.json").read_text())["layers"]
    kept = {name: row["kept"] for name, row in rates.items()}
    assert {f"{name}/kernel": int(np.count_nonzero(kernel)) for name, kernel in kernels.items()} == kept
