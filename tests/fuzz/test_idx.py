"""Whatever four IDX files hold, they are read or refused."""

import gzip
import itertools
import math
import os
import struct

import pytest
from hypothesis import strategies as st

from harp_tf.data import idx
from harp_tf.data.memory import split_arrays
from harp_tf.data.splits import Cuts
from tests.fuzz.limits import amounts, fuzz, outcome, refused
from tests.fuzz.mutations import EXTREMES, damaged

SHAPES = {"train": 12, "t10k": 4}
CUTS = Cuts(seed=0, validation_fraction=0.2, train_limit=None, test_limit=None)


def images(count, height=3, width=2):
    return struct.pack(">4I", 0x803, count, height, width) + bytes(i % 251 for i in range(count * height * width))


def labels(count):
    return struct.pack(">2I", 0x801, count) + bytes(i % 3 for i in range(count))


FILES = {
    f"{part}-{name}": content(count)
    for part, count in SHAPES.items()
    for name, content in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels))
}


def written(folder, files=()):
    for name, content in {**FILES, **dict(files)}.items():
        (folder / f"{name}.gz").unlink(missing_ok=True)
        (folder / name).write_bytes(content)


def read(folder):
    train, test, names = idx.load(str(folder))
    splits = split_arrays("idx", train, test, names, CUTS)
    assert math.prod(splits.input_shape) > 0 and splits.num_classes >= 2
    return splits


def test_the_valid_files_are_read(folder):
    written(folder)
    assert read(folder).input_shape == (3, 2, 1)


@amounts(60, 1500)
def test_damaged_bytes(folder, examples):
    def holds(name, data):
        written(folder, {name: data.draw(damaged(FILES[name]))})
        outcome(lambda: read(folder))

    fuzz(examples, holds, st.sampled_from(sorted(FILES)), st.data())


@amounts(40, 1000)
def test_damaged_compressed_bytes(folder, examples):
    def holds(name, data):
        written(folder)
        (folder / name).unlink()
        content = data.draw(damaged(gzip.compress(FILES[name], mtime=0)) | damaged(FILES[name]).map(gzip.compress))
        (folder / f"{name}.gz").write_bytes(content)
        outcome(lambda: read(folder))

    fuzz(examples, holds, st.sampled_from(sorted(FILES)), st.data())


def test_cut_anywhere(folder):
    for name, content in FILES.items():
        for length in range(0, len(content), 1 if len(content) < 60 else 7):
            written(folder, {name: content[:length]})
            refused(lambda: read(folder))


@pytest.mark.parametrize("compress", [False, True])
def test_dimensions_that_no_file_has_are_refused_before_anything_is_allocated(folder, compress):
    extremes = [0, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
    for shape in itertools.product(extremes, repeat=3):
        written(folder)
        name = "train-images-idx3-ubyte"
        content = struct.pack(">4I", 0x803, *shape) + bytes(72)
        if compress:
            (folder / name).unlink()
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
        assert name in refused(lambda: read(folder))


@amounts(20, 300)
def test_any_header(folder, examples):
    def holds(magic, shape, rest):
        written(folder, {"t10k-images-idx3-ubyte": struct.pack(">4I", magic, *shape) + bytes(rest)})
        outcome(lambda: read(folder))

    magic = st.just(0x803) | st.sampled_from([0x801, 0x802, 0x804, 0x8FF, 0xD03, 0x10803, 2**32 - 1])
    dimension = st.sampled_from(EXTREMES) | st.integers(0, 8)
    fuzz(examples, holds, magic, st.tuples(dimension, dimension, dimension), st.integers(0, 600))


def test_a_decompression_bomb_is_refused_before_it_grows(folder):
    written(folder)
    name = "train-images-idx3-ubyte"
    (folder / name).unlink()
    with gzip.open(folder / f"{name}.gz", "wb", compresslevel=1) as file:
        file.write(struct.pack(">4I", 0x803, 2**15, 2**8, 2**8))
        for _ in range(32):
            file.write(bytes(2**20))
    assert "announces" in refused(lambda: read(folder))  # 2 GiB, of which 32 MiB are there
    (folder / f"{name}.gz").write_bytes(gzip.compress(struct.pack(">4I", 0x803, 12, 3, 2) + bytes(2**24)))
    assert "holds more than 72" in refused(lambda: read(folder))


def test_what_is_no_file(folder):
    name = "t10k-labels-idx1-ubyte"
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        written(folder)
        (folder / name).unlink()
        make(folder / name)
        refused(lambda: read(folder))
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()
