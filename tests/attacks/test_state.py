import json

import numpy as np
import pytest

from harp_tf.attacks.state import State

IDENTITY = {"models": {"dense": "abc"}, "seed": 3, "radii": (0.1, 0.2)}
RECORD = {"labels": np.array([1, 2]), "standing/pgd20/dense": np.array([True, False]), "attacked": np.array(2)}


def same(one, other):
    return list(one) == list(other) and all(np.array_equal(one[key], other[key]) for key in one)


def test_what_was_saved_is_there_for_the_next(tmp_path):
    folder = tmp_path / "a" / "b"
    state = State(folder, IDENTITY)
    assert state.load(0, "abc") is None and state.finished == 0
    state.save(0, "abc", RECORD)
    state.save(2, "abc", {**RECORD, "attacked": np.array(1)})
    again = State(folder, IDENTITY)
    assert again.finished == 2
    assert (
        same(again.load(0, "abc"), RECORD)
        and int(again.load(2, "abc")["attacked"]) == 1
        and again.load(1, "abc") is None
    )


@pytest.mark.parametrize("change", [{"seed": 4}, {"models": {"dense": "abd"}}, {"radii": (0.1,)}])
def test_records_of_something_else_are_not_used(tmp_path, change):
    State(tmp_path, IDENTITY).save(0, "abc", RECORD)
    assert State(tmp_path, {**IDENTITY, **change}).load(0, "abc") is None


def test_a_flipped_bit_is_noticed_and_said(tmp_path):
    said = []
    state = State(tmp_path, IDENTITY, said.append)
    state.save(0, "abc", RECORD)
    (path,) = tmp_path.glob("batch_*.npz")
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        found = state.load(0, "abc")
        assert found is None or same(found, RECORD), place  # some bits, as those of a time, mean nothing
        assert (found is None) == bool(said), place
        said.clear()


def test_a_damaged_record_or_description_counts_as_none(tmp_path):
    state = State(tmp_path, IDENTITY)
    state.save(0, "abc", RECORD)
    (path,) = tmp_path.glob("batch_*.npz")
    for content in (path.read_bytes()[:50], b"", b"PK", b"no"):
        path.write_bytes(content)
        assert state.load(0, "abc") is None
    state.save(0, "abc", RECORD)
    (tmp_path / "state.json").write_text("{")
    assert State(tmp_path, IDENTITY).load(0, "abc") is None


def test_a_record_of_other_images_is_not_used_and_said(tmp_path):
    said = []
    state = State(tmp_path, IDENTITY, said.append)
    state.save(0, "abc", RECORD)
    assert state.load(0, "abd") is None and "other images or labels" in said[0]


def test_clearing_removes_what_is_its_own(tmp_path):
    state = State(tmp_path / "mine", IDENTITY)
    state.save(0, "abc", RECORD)
    state.clear()
    assert list(tmp_path.iterdir()) == []
    state = State(tmp_path, IDENTITY)
    (tmp_path / "notes.txt").write_text("mine")
    state.save(0, "abc", RECORD)
    state.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_description_is_plain_json(tmp_path):
    State(tmp_path, IDENTITY)
    assert json.loads((tmp_path / "state.json").read_text()) == {**IDENTITY, "radii": [0.1, 0.2]}
