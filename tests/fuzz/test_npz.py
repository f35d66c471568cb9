"""Whatever an .npz file holds, it is read or refused, and never unpickled."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import strategies as st

from harp_tf.data import npz
from harp_tf.data.memory import split_arrays
from harp_tf.data.splits import Cuts
from tests.fuzz.limits import amounts, fuzz, outcome, refused
from tests.fuzz.mutations import NAMES, NUMBERS, damaged

CUTS = Cuts(seed=0, validation_fraction=0.2, train_limit=None, test_limit=None)
ARRAYS = {
    "x_train": np.arange(72, dtype=np.uint8).reshape(12, 3, 2),
    "y_train": np.arange(12) % 3,
    "x_test": np.arange(24, dtype=np.uint8).reshape(4, 3, 2),
    "y_test": np.arange(4) % 3,
}
DTYPES = "?,u1,i1,<i2,>i4,<i8,<u8,<f2,>f4,<f8,<f16,<c16,S3,U3,V5,V0,M8[s],m8[D],S0,U0".split(",")


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def npy_header(descr, fortran, shape, data=b"", version=1) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


MEMBERS = {f"{key}.npy": npy(array) for key, array in ARRAYS.items()}


def archive(members, compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def read(folder, content: bytes):
    (folder / "d.npz").write_bytes(content)
    train, test, names = npz.load(str(folder / "d.npz"))
    splits = split_arrays("npz", train, test, names, CUTS)
    for images, labels in (split.arrays() for split in (splits.train, splits.test)):
        assert images.dtype == np.float32 and 0 <= images.min() <= images.max() <= 1
        assert 0 <= labels.min() <= labels.max() < splits.num_classes
    return splits


def test_the_valid_archive_is_read(folder):
    assert read(folder, archive(MEMBERS)).input_shape == (3, 2, 1)


@amounts(60, 1200)
def test_damaged_bytes_of_the_archive(folder, examples):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fuzz(examples, lambda data: outcome(lambda: read(folder, data)), damaged(archive(MEMBERS, compression)))


@amounts(60, 1200)
def test_damaged_bytes_of_a_member(folder, examples):
    def holds(name, data):
        outcome(lambda: read(folder, archive({**MEMBERS, name: data.draw(damaged(MEMBERS[name]))})))

    fuzz(examples, holds, st.sampled_from(sorted(MEMBERS)), st.data())


@amounts(60, 1200)
def test_any_header(folder, examples):
    def holds(name, header, rest):
        outcome(lambda: read(folder, archive({**MEMBERS, name: npy_header(*header, bytes(rest))})))

    whole = st.sampled_from([n for n in NUMBERS if isinstance(n, int)]) | st.integers(-3, 12)
    shape = st.lists(whole, max_size=5).map(tuple) | st.sampled_from([None, "x", (1.5,), (True,), (2**40,) * 3])
    header = st.tuples(
        st.sampled_from([*DTYPES, "O", "|O", "nonsense", [("a", "O")], [("a", "<f4")]]), st.booleans(), shape
    )
    fuzz(examples, holds, st.sampled_from(sorted(MEMBERS)), header, st.integers(0, 300))


@amounts(40, 600)
def test_arrays_of_any_type_and_shape(folder, examples):
    def holds(key, dtype, shape):
        with np.errstate(all="ignore"):
            array = np.resize(ARRAYS[key].ravel(), shape).astype(dtype)
        outcome(lambda: read(folder, archive({**MEMBERS, f"{key}.npy": npy(array)})))

    shape = st.lists(st.integers(0, 6), max_size=5).map(tuple) | st.sampled_from(
        [(12, 3, 2, 1), (4, 3, 2), (12,), (12, 1)]
    )
    fuzz(examples, holds, st.sampled_from(sorted(ARRAYS)), st.sampled_from([d for d in DTYPES if d != "V0"]), shape)


@amounts(20, 300)
def test_members_of_other_names(folder, examples):
    def holds(name, extra, key):
        members = {**MEMBERS, extra: b"something"}
        members[name.replace("\0", "")] = members.pop(f"{key}.npy")
        outcome(lambda: read(folder, archive(members)))

    sound = NAMES.filter(lambda name: name and name.isprintable())
    fuzz(
        examples, holds, sound, sound | st.sampled_from(["x_train", "../x_train.npy"]), st.sampled_from(sorted(ARRAYS))
    )


class Runs:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(folder, outside):
    trap = np.array([Runs(outside / "ran")], object)
    for name in MEMBERS:
        assert "allow_pickle=False" in refused(lambda: read(folder, archive({**MEMBERS, name: npy(trap)})))
    refused(lambda: read(folder, npy(trap)))
    assert os.listdir(outside) == ["secret.txt"]


def test_a_member_without_an_ending_is_no_array(folder):
    members = {name.removesuffix(".npy"): content for name, content in MEMBERS.items()}
    assert "is missing" in refused(lambda: read(folder, archive(members)))


@pytest.mark.parametrize(("mebibytes", "message"), [(1280, "announces"), (1, "could not be read")])
def test_a_decompression_bomb_is_refused_before_it_grows(folder, mebibytes, message):
    """More than a GiB of zeros: really in the archive, as one MiB, or only said to be."""
    header = npy_header("|u1", False, (1280 * 2**20,))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("x_train.npy", "w", force_zip64=True) as member:
            member.write(header)
            for _ in range(mebibytes):
                member.write(bytes(2**20))
        for name in ("y_train.npy", "x_test.npy", "y_test.npy"):
            file.writestr(name, MEMBERS[name])
    assert message in refused(lambda: read(folder, buffer.getvalue()))


def test_what_is_no_file(folder):
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        make(folder / "d.npz")
        assert "There is no file" in refused(lambda: npz.load(str(folder / "d.npz")))
        (folder / "d.npz").rmdir() if (folder / "d.npz").is_dir() else (folder / "d.npz").unlink()
