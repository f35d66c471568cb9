"""A folder of checkpoints: whole or not there, checked, the last ones and the best kept."""

import errno
import json
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest

from harp_tf.training import CheckpointStore, Position
from harp_tf.types import HarpError


@pytest.fixture
def lines():
    return []


@pytest.fixture
def store(tmp_path, lines):
    return CheckpointStore(tmp_path / "checkpoints", keep=2, say=lines.append)


def arrays(value: int) -> dict[str, np.ndarray]:
    return {"a": np.full((3, 2), value, "float32"), "b/0": np.array(value), "c": np.array(value > 1)}


def names(store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


def test_what_is_saved_comes_back(store):
    assert store.newest() is None
    store.save(Position(1, 3), arrays(7))
    position, found = store.newest()
    assert position == Position(1, 3)
    assert found.keys() == arrays(7).keys()
    for name, array in arrays(7).items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_variables_of_all_types_come_back(store):
    variables = {
        "half": keras.Variable([1.5, -2.0], dtype="bfloat16"),
        "seed": keras.Variable([1, 2**32 - 1], dtype="uint32"),
        "flag": keras.Variable(True, dtype="bool"),
    }
    store.save(Position(1), variables)
    for name, array in store.newest()[1].items():
        original = keras.ops.convert_to_numpy(variables[name])
        assert array.dtype == original.dtype and array.tobytes() == original.tobytes()
        variables[name].assign(array)


def test_the_newest_is_that_of_the_largest_position(store, monkeypatch):
    store.keep = 9
    for number, position in enumerate([Position(2, 3000), Position(9, 2), Position(9, 10), Position(10)]):
        store.save(position, arrays(number))
        os.utime(store.folder / names(store)[0], (2e9 - number, 2e9 - number))
    assert store.newest()[0] == Position(10)


def test_the_last_ones_and_the_newest_best_are_kept(store):
    for epoch in range(1, 7):
        store.save(Position(epoch), arrays(epoch), best=epoch in (1, 3))
    assert names(store) == ["epoch_0003_step_0000000_best", "epoch_0005_step_0000000", "epoch_0006_step_0000000"]
    store.save(Position(7), arrays(7), best=True)
    assert names(store) == ["epoch_0006_step_0000000", "epoch_0007_step_0000000_best"]


def test_damaged_ones_do_not_push_out_those_that_are_written_before_them(store, lines):
    store.save(Position(1), arrays(1), best=True)
    for epoch in (2, 3):
        store.save(Position(epoch), arrays(epoch))
        flip(store.folder / f"epoch_000{epoch}_step_0000000" / "arrays.npz")
    assert store.newest()[0] == Position(1) and len(lines) == 2
    store.save(Position(1, 50), arrays(4))
    assert names(store) == ["epoch_0001_step_0000000_best", "epoch_0001_step_0000050"]
    assert store.newest()[0] == Position(1, 50) and store.latest() == store.folder / "epoch_0001_step_0000050"
    store.save(Position(2), arrays(5), best=True)
    assert store.newest()[0] == Position(2)


DAMAGES = {
    "truncated arrays": lambda path: os.truncate(path / "arrays.npz", 100),
    "emptied arrays": lambda path: os.truncate(path / "arrays.npz", 0),
    "bit flipped in arrays": lambda path: flip(path / "arrays.npz"),
    "missing arrays": lambda path: (path / "arrays.npz").unlink(),
    "truncated manifest": lambda path: os.truncate(path / "manifest.json", 30),
    "emptied manifest": lambda path: os.truncate(path / "manifest.json", 0),
    "missing manifest": lambda path: (path / "manifest.json").unlink(),
    "another manifest": lambda path: (path / "manifest.json").write_text('{"epoch": 9}'),
    "a manifest that is a list": lambda path: (path / "manifest.json").write_text("[1]"),
    "emptied folder": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_is_used(store, damage, lines):
    store.save(Position(1), arrays(1))
    store.save(Position(2), arrays(2))
    path = store.folder / "epoch_0002_step_0000000"
    DAMAGES[damage](path)
    position, found = store.newest()
    assert position == Position(1) and found["b/0"] == 1
    (line,) = lines
    assert f"The checkpoint {path} is damaged and left out: " in line
    store.save(Position(2), arrays(3))  # the training comes there again
    assert store.newest()[1]["b/0"] == 3


@pytest.mark.parametrize("place", np.linspace(0, 0.999, 25))
def test_no_flipped_bit_of_a_manifest_goes_unnoticed(store, place):
    store.save(Position(1, 2), arrays(1))
    flip(store.folder / "epoch_0001_step_0000002" / "manifest.json", place)
    assert store.newest() is None


def test_none_whole_is_said(store, lines):
    store.save(Position(1), arrays(1))
    DAMAGES["truncated arrays"](store.folder / "epoch_0001_step_0000000")
    assert store.newest() is None
    assert lines[-1] == f"No checkpoint in {store.folder} is whole: this training begins anew."


def test_a_pickle_is_not_read(store, lines):
    store.save(Position(1), arrays(1))
    path = store.folder / "epoch_0001_step_0000000"
    np.savez(path / "arrays.npz", a=np.array([{"a": 1}], dtype=object))
    from harp_tf.training import checkpoint_store

    (path / "manifest.json").unlink()
    checkpoint_store._write_manifest(path, Position(1), {})  # even with the right checksum
    assert store.newest() is None and "allow_pickle" in lines[0]


def test_a_checkpoint_is_not_there_under_its_name_before_it_is_whole(store, monkeypatch):
    seen = []
    synced, renamed = os.fsync, os.rename

    def fsync(descriptor):
        seen.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        synced(descriptor)

    def rename(source, target):
        with zipfile.ZipFile(source / "arrays.npz") as file:
            assert file.testzip() is None
        assert json.loads((source / "manifest.json").read_text())["epoch"] == 1
        seen.append("rename")
        renamed(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    store.save(Position(1), arrays(1))
    assert seen[:2] == ["sync arrays.npz", "sync manifest.json"] and seen[2].startswith("sync .epoch_0001")
    assert seen[3:] == ["rename", "sync checkpoints"]


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_full_disk_is_one_clear_error_and_leaves_the_one_before(store, monkeypatch, step):
    store.save(Position(1), arrays(1))
    before = names(store)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(np.lib.format, "write_array", full)
        else:
            patch.setattr(os, {"sync": "fsync", "rename": "rename"}[step], full)
        with pytest.raises(
            HarpError, match=r"A checkpoint of 33 bytes could not be written to .*checkpoints: No space"
        ):
            store.save(Position(2), arrays(2))
    assert names(store) == before
    assert store.newest()[0] == Position(1)


def test_what_killed_processes_left_is_removed(store):
    store.save(Position(1), arrays(1))
    shutil.copytree(store.folder / "epoch_0001_step_0000000", store.folder / f".epoch_0002_step_0000000.{'0' * 32}.tmp")
    (store.folder / "mine").mkdir()
    assert store.newest()[0] == Position(1)
    assert names(store) == ["epoch_0001_step_0000000", "mine"]
    store.clear()
    assert names(store) == ["mine"]
    (store.folder / "mine").rmdir()
    store.clear()
    assert not store.folder.exists()
