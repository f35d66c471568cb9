"""Whatever a rates.json holds, it gives rates in (0, 1] or is refused."""

import json
import os

import numpy as np
import pytest
from hypothesis import strategies as st

from harp_tf import strategies
from harp_tf.strategies import KernelInfo
from tests.fuzz.limits import amounts, fuzz, outcome, refused
from tests.fuzz.mutations import NUMBERS, altered, any_json, damaged, json_text

KERNELS = [KernelInfo("conv/kernel", np.zeros((3, 3))), KernelInfo("dense/kernel", np.zeros(4))]
PLAIN = {"conv/kernel": 0.3, "dense/kernel": 0.05}
OF_A_RUN = {
    "target_sparsity": 0.9,
    "weights": 13,
    "layers": {name: {"weights": 9, "kept": 3, "rate": rate} for name, rate in PLAIN.items()},
}


def read(folder, content: bytes):
    (folder / "rates.json").write_bytes(content)
    rates = strategies.get(str(folder / "rates.json"))(KERNELS, 0.1)
    assert set(rates) == set(PLAIN) and all(isinstance(rate, float) and 0 < rate <= 1 for rate in rates.values())
    return rates


def test_the_valid_files_are_read(folder):
    assert read(folder, json_text(PLAIN)) == read(folder, json_text(OF_A_RUN)) == PLAIN


@amounts(100, 1500)
def test_damaged_bytes(folder, examples):
    for valid in (PLAIN, OF_A_RUN):
        fuzz(examples, lambda data: outcome(lambda: read(folder, data)), damaged(json_text(valid)))


@amounts(100, 1500)
def test_other_values(folder, examples):
    for valid in (PLAIN, OF_A_RUN):
        other = altered(valid, st.sampled_from(NUMBERS))
        fuzz(examples, lambda tree: outcome(lambda: read(folder, json_text(tree))), other)


@amounts(30, 500)
def test_any_json(folder, examples):
    fuzz(examples, lambda tree: outcome(lambda: read(folder, json_text(tree))), any_json())


@pytest.mark.parametrize(
    "content",
    [
        b'{"conv/kernel": 0.3, "dense/kernel": 0.05, "conv/kernel": 0.9}',
        b'{"layers": {"conv/kernel": 0.3, "dense/kernel": 0.05}, "layers": {}}',
        b'{"conv/kernel": NaN, "dense/kernel": 0.05}',
        b'{"conv/kernel": Infinity, "dense/kernel": 0.05}',
        b'{"conv/kernel": 1' + b"0" * 400 + b', "dense/kernel": 0.05}',
        b'{"conv/kernel": 1' + b"0" * 5000 + b', "dense/kernel": 0.05}',
        b'{"conv/kernel": 1e-400, "dense/kernel": 0.05}',
        b'{"a":' * 100_000,
        json.dumps(PLAIN).encode("utf-16"),
        b"\xef\xbb\xbf" + json_text(PLAIN),
    ],
    ids=lambda content: content[:20].decode("latin-1"),
)
def test_files_that_must_be_refused(folder, content):
    assert "rates" in refused(lambda: read(folder, content))


def test_what_is_no_file(folder):
    path = folder / "rates.json"
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        make(path)
        assert "Cannot read the rates file" in refused(lambda: strategies.get(str(path)))
        path.rmdir() if path.is_dir() else path.unlink()
    for name in ("a\0b.json", "x" * 300 + ".json", "\udcff.json"):
        assert "Cannot read the rates file" in refused(lambda: strategies.get(name))
