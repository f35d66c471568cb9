"""Files are whole or not there, and the same for the same content."""

import errno
import gzip
import json
import os
import re
import tempfile
import zipfile

import keras
import numpy as np
import pytest

from harp_tf import files
from harp_tf.types import HarpError


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(3, 3, name="conv"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(2, name="logits"),
        ],
        name="small",
    )


def test_write_creates_and_replaces(tmp_path):
    path = tmp_path / "file.bin"
    files.write_atomically(path, b"one")
    assert path.read_bytes() == b"one"
    files.write_atomically(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(HarpError, match=r"write 3 bytes to .*file\.bin.*No space left.*Free space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_write_that_fails_halfway_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    class HalfWritten:
        def __init__(self, *args):
            self.file = original(*args)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            full_disk()

    original = open
    monkeypatch.setattr("builtins.open", HalfWritten)
    with pytest.raises(HarpError, match="No space left"):
        files.write_atomically(path, b"0123456789")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_reason_is_given_even_without_an_error_number(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("the drive is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(HarpError, match="the drive is gone"):
        files.write_atomically(tmp_path / "x", b"")


@pytest.mark.parametrize("place", ["missing/file", "regular/file"])
def test_a_folder_that_is_none_is_a_clear_error(tmp_path, place):
    (tmp_path / "regular").write_bytes(b"")
    with pytest.raises(HarpError, match="choose another path"):
        files.write_atomically(tmp_path / place, b"x")


def test_the_content_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    seen = []
    synced, replaced = os.fsync, os.replace

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        seen.append(("fsync", "folder" if name == str(tmp_path) else os.fstat(descriptor).st_size))
        synced(descriptor)

    def replace(source, target):
        seen.append(("replace", path.read_bytes()))
        replaced(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.write_atomically(path, b"0123456789")
    assert seen == [("fsync", 10), ("replace", b"old"), ("fsync", "folder")]


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    whole = tmp_path / "a.json"
    left = [files.temporary_name(whole), files.temporary_name(tmp_path / "folder")]
    left[0].write_bytes(b"half")
    left[1].mkdir()
    (left[1] / "file").write_bytes(b"half")
    mine = [tmp_path / name for name in (".mine.tmp", "a.tmp", ".a.0123.tmp", f".{'a' * 32}.tmp")]
    for path in [whole, *mine]:
        path.write_bytes(b"mine")
    files.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([whole, *mine])
    files.remove_leftovers(tmp_path / "none")


def test_json(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [1, 2.5, None], "b": "ü"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "a": [') and text.endswith("}\n")
    assert json.loads(text) == {"a": [1, 2.5, None], "b": "ü"}


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert path.read_text() == "{}"


def test_the_checksum_of_arrays_is_of_all_their_values():
    images, labels = np.zeros((2, 4, 4, 1), np.float32), np.array([1, 2])
    known = files.arrays_checksum(images, labels)
    assert known == files.arrays_checksum(np.repeat(images, 2, axis=0)[::2], labels.copy())
    others = [files.arrays_checksum(images + 1, labels), files.arrays_checksum(images, labels + 1)]
    assert len({known, *others, files.arrays_checksum(images)}) == 4


def test_sizes_are_those_of_gzip_at_level_6_and_always_the_same():
    data = bytes(range(256)) * 50
    raw, packed = files.sizes(data)
    assert raw == 12800
    assert packed == len(gzip.compress(data, compresslevel=6)) < 1000
    assert files.sizes(data) == (raw, packed)


def test_two_saves_have_equal_bytes_and_load_equal(tmp_path, model, monkeypatch):
    files.save_keras(model, tmp_path / "a.keras")
    dates = set()
    import keras.src.saving.saving_lib as saving_lib

    class Later(saving_lib.datetime.datetime):
        @classmethod
        def now(cls, *args):
            dates.add("asked")
            return cls(2031, 5, 6, 7, 8, 9)

    monkeypatch.setattr(saving_lib.datetime, "datetime", Later)
    files.save_keras(model, tmp_path / "b.keras")
    assert dates, "Keras did not ask for the time: the test would show nothing"
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert sorted(os.listdir(tmp_path)) == ["a.keras", "b.keras"]


def test_addresses_in_memory_do_not_reach_the_file(tmp_path):
    """Keras numbers objects that layers share by their address, which differs from process to process."""
    saved, held = [], []
    for _ in range(2):
        policies = [keras.DTypePolicy("float32"), keras.DTypePolicy("float32")]
        dense = [keras.layers.Dense(3, dtype=policies[i % 2], name=f"d{i}") for i in range(4)]
        model = keras.Sequential([keras.Input((3,), name="numbers"), *dense], name="shared")
        for layer in dense:
            layer.set_weights([np.ones((3, 3)), np.zeros(3)])
        held.append(model)  # so that the second one's objects lie elsewhere
        files.save_keras(model, tmp_path / "a.keras")
        saved.append((tmp_path / "a.keras").read_bytes())
        model.save(tmp_path / "b.keras")
        with zipfile.ZipFile(tmp_path / "b.keras") as file:
            ids = re.findall(r'"shared_object_id": (\d+)', file.read("config.json").decode())
        with zipfile.ZipFile(tmp_path / "a.keras") as file:
            numbers = re.findall(r'"shared_object_id": (\d+)', file.read("config.json").decode())
        assert len(ids) == len(numbers) >= 2 and int(ids[0]) > 2**20, "Keras shares no objects any more?"
        assert numbers == [str(list(dict.fromkeys(ids)).index(address)) for address in ids]
    assert saved[0] == saved[1]
    keras.models.load_model(tmp_path / "a.keras")


def test_another_weight_gives_other_bytes(tmp_path, model):
    files.save_keras(model, tmp_path / "a.keras")
    model.layers[-1].bias.assign([0.0, 1e-6])
    files.save_keras(model, tmp_path / "b.keras")
    assert (tmp_path / "a.keras").read_bytes() != (tmp_path / "b.keras").read_bytes()


def test_the_keras_file_keeps_all_its_parts(tmp_path, model):
    files.save_keras(model, tmp_path / "a.keras")
    model.save(tmp_path / "b.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as mine, zipfile.ZipFile(tmp_path / "b.keras") as original:
        assert mine.namelist() == original.namelist()
        assert mine.read("model.weights.h5") == original.read("model.weights.h5")
        assert mine.testzip() is None


def test_a_keras_file_on_a_full_disk_leaves_the_old_one(tmp_path, model, monkeypatch):
    files.save_keras(model, tmp_path / "a.keras")
    before = (tmp_path / "a.keras").read_bytes()
    model.layers[-1].bias.assign([1.0, 2.0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(HarpError, match="No space left"):
            files.save_keras(model, tmp_path / "a.keras")
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "save", full_disk)
        with pytest.raises(HarpError, match="No space left.*TMPDIR"):
            files.save_keras(model, tmp_path / "a.keras")
    assert (tmp_path / "a.keras").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.keras"]


def test_nothing_stays_in_the_folder_for_temporary_files(tmp_path, model, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    files.save_keras(model, tmp_path / "a.keras")
    assert os.listdir(tmp_path / "temporary") == []
