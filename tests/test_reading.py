import os

import pytest

from harp_tf import reading


def test_text_and_json_are_read(tmp_path):
    (tmp_path / "a.json").write_text('{"ä": [1, NaN, null]}', encoding="utf-8")
    (tmp_path / "link.json").symlink_to("a.json")
    assert reading.read_text(tmp_path / "link.json") == '{"ä": [1, NaN, null]}'
    found = reading.read_json(str(tmp_path / "a.json"))
    assert list(found) == ["ä"] and found["ä"][0] == 1 and found["ä"][2] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkdir, "Is a directory"),
        (os.mkfifo, "Not a regular file"),
        (lambda path: os.symlink("/dev/zero", path), "Not a regular file"),
        (lambda path: os.symlink(path, path), "Too many levels"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_is_no_file_is_an_error_at_once(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(OSError, match=message) as raised:
        reading.read_text(tmp_path / "x")
    assert raised.value.filename == str(tmp_path / "x")


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LIMIT", 2**20)
    (tmp_path / "x").write_bytes(b" " * 2**20)
    assert len(reading.read_text(tmp_path / "x")) == 2**20
    with open(tmp_path / "x", "r+b") as file:
        file.truncate(2**40)  # a hole: nothing is stored
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        reading.read_text(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the name 'a' is there twice"),
        ('[{"a": {"x": 1, "x": 2}}]', "the name 'x' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting"),
        ("1" * 5000, "digits"),
    ],
)
def test_json_that_is_not_clear(text, message):
    with pytest.raises(ValueError, match=message):
        reading.parse_json(text)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        reading.read_text(tmp_path / "x")
    with pytest.raises(ValueError, match="null byte"):
        reading.read_text("a\0b")
