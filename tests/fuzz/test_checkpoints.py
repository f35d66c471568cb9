"""Whatever a folder of checkpoints holds, the newest that is whole is read and the others are named."""

import hashlib
import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import strategies as st

from harp_tf.reading import parse_json
from harp_tf.training.checkpoint_store import CheckpointStore, Position
from tests.fuzz.limits import amounts, fuzz, outcome
from tests.fuzz.mutations import NAMES, NUMBERS, altered, damaged, json_text

ARRAYS = {"model/0": np.arange(6, dtype=np.float32), "callbacks/best/epoch": np.array(3)}
MANIFEST, VALUES = "manifest.json", "arrays.npz"
OLD, NEW = Position(1, 0), Position(2, 5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints of one training."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    store = CheckpointStore(folder)
    for position in (OLD, NEW):
        store.save(position, {**ARRAYS, "model/0": ARRAYS["model/0"] + position.epoch})
    return folder


@pytest.fixture
def stored(folder, saved):
    """A copy of the two checkpoints, with other files in the newer."""

    def write(files=()):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.copytree(saved, folder / "checkpoints")
        newest = max((folder / "checkpoints").iterdir())
        for name, content in dict(files).items():
            (newest / name).write_bytes(content)
        return newest

    return write


def newest(path) -> Position:
    """The position of the newest whole one, after its arrays were looked at."""
    lines: list[str] = []
    found = outcome(lambda: CheckpointStore(path.parent, say=lines.append).newest())
    assert isinstance(found, tuple), found
    position, arrays = found
    assert set(arrays) == set(ARRAYS) and arrays["model/0"].shape == (6,)
    assert (position == NEW) != any(str(path) in line for line in lines)
    return position


def test_the_valid_ones_are_read(stored):
    assert newest(stored()) == NEW


@amounts(40, 800)
def test_damaged_bytes(stored, saved, examples):
    valid = {name: (max(saved.iterdir()) / name).read_bytes() for name in (MANIFEST, VALUES)}

    def holds(name, data):
        content = data.draw(damaged(valid[name]))
        unharmed = content == valid[name] or (name == MANIFEST and same_json(content, valid[name]))
        assert newest(stored({name: content})) == (NEW if unharmed else OLD)

    fuzz(examples, holds, st.sampled_from(sorted(valid)), st.data())


def same_json(first: bytes, second: bytes) -> bool:
    try:
        return parse_json(first.decode()) == parse_json(second.decode())  # a name that is there twice is no JSON here
    except ValueError:
        return False


def signed(content: dict) -> bytes:
    """A manifest with the right checksum, as someone could make it on purpose."""
    body = {key: value for key, value in content.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json_text({**body, "sha256": digest})


@amounts(40, 600)
def test_other_manifests_with_the_right_checksum(stored, saved, examples):
    valid = json.loads((max(saved.iterdir()) / MANIFEST).read_bytes())
    valid["dtypes"] = {"model/0": "float32"}

    def holds(tree):
        if isinstance(tree, dict):
            path = stored({MANIFEST: signed(tree)})
            outcome(lambda: CheckpointStore(path.parent, say=lambda line: None).newest())

    dtypes = st.sampled_from(["O", "object", "V4", "bfloat16", "u1", "c16", "nonsense", "M8[s]", "<U1"])
    fuzz(examples, holds, altered(valid, st.sampled_from(NUMBERS) | NAMES | dtypes))


@amounts(20, 400)
def test_other_arrays_with_the_right_checksum(stored, saved, examples):
    manifest = json.loads((max(saved.iterdir()) / MANIFEST).read_bytes())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in ARRAYS.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)

    def holds(content):
        manifest["files"] = {VALUES: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
        path = stored({VALUES: content, MANIFEST: signed(manifest)})
        outcome(lambda: CheckpointStore(path.parent, say=lambda line: None).newest())

    fuzz(examples, holds, damaged(buffer.getvalue()) | damaged((max(saved.iterdir()) / VALUES).read_bytes()))


class Runs:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(stored, saved, outside):
    manifest = json.loads((max(saved.iterdir()) / MANIFEST).read_bytes())
    buffer = io.BytesIO()
    np.savez(buffer, **{"model/0": np.array([Runs(outside / "ran")], object)})
    content = buffer.getvalue()
    manifest["files"] = {VALUES: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    assert newest(stored({VALUES: content, MANIFEST: signed(manifest)})) == OLD
    assert os.listdir(outside) == ["secret.txt"]


@pytest.mark.parametrize("name", [MANIFEST, VALUES])
def test_what_is_no_file(stored, name):
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        path = stored()
        (path / name).unlink()
        make(path / name)
        assert newest(path) == OLD


def test_folders_of_other_names_are_left_alone(stored):
    path = stored()
    for name in ("epoch_1", "epoch_0009_step_0000000_worst", "epoch_٣_step_0", "notes", "epoch_0003_step_0000000"):
        (path.parent / name).mkdir()
    (path.parent / "epoch_0004_step_0000000").write_text("a file")
    found = CheckpointStore(path.parent, say=lambda line: None).newest()
    assert found is not None and found[0] == NEW
