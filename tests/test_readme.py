"""The README keeps its promises: its program runs, and what it names exists."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf import models

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_program_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert "epochs=20" in program
    rng = np.random.default_rng(0)
    images, labels = rng.random((32, 8, 8, 1), np.float32), rng.integers(0, 10, 32)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    model = models.build("cnn_digits", (8, 8, 1), 10, width=0.25)
    names = {"model": model, "train": batches, "val": batches}
    exec(program.replace("epochs=20", "epochs=1"), names)
    capsys.readouterr()
    assert (tmp_path / "model.tflite").stat().st_size > 0
    assert isinstance(names["small"], keras.Model)
    kernels = [w for w in names["small"].trainable_weights if w.name == "kernel"]
    kept = sum(int(np.count_nonzero(w.numpy())) for w in kernels)
    dense = [w for w in model.trainable_weights if w.name == "kernel"]
    assert 0 < kept <= 0.01 * sum(int(np.prod(w.shape)) for w in dense)


def test_the_program_is_short():
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in program.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize(
    "path", re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"--flagfile=(\S+\.flags)", README)
)
def test_what_the_readme_names_exists(path):
    assert (ROOT / path).exists()


def test_no_placeholder_is_left():
    for file in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("flags/**/*.flags"),
    ]:
        assert "@@" not in file.read_text(encoding="utf-8"), file
