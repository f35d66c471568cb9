"""Whatever a flagfile holds, it is read or refused in one line."""

import os

import pytest
from hypothesis import strategies as st

from harp_tf.config import RunConfig
from tests.fuzz.limits import amounts, fuzz
from tests.fuzz.mutations import damaged

VALID = b"# A run.\n--batch_size=3\n\n--eps=0.25\n--skip=conv1,logits\n--nodownload\n// end\n"


@pytest.fixture
def read(ended, folder):
    def run(content: bytes) -> RunConfig | str:
        (folder / "a.flags").write_bytes(content)
        return ended(f"--flagfile={folder / 'a.flags'}")

    return run


def test_the_valid_file_is_read(read):
    assert read(VALID).batch_size == 3


@amounts(80, 1500)
def test_damaged_bytes(read, examples):
    fuzz(examples, read, damaged(VALID, most=4))


@amounts(40, 600)
def test_any_lines(read, examples):
    line = st.sampled_from(
        [
            "--flagfile",
            "--flagfile=",
            "-flagfile= x",
            "--",
            "--=",
            "--seed",
            "--seed=1",
            "--nonesuch=1",
            "x",
            "\r",
            "\x0c",
        ]
    )
    lines = st.lists(line | st.text(max_size=10) | st.binary(max_size=6).map(lambda b: b.decode("latin-1")), max_size=5)
    fuzz(examples, lambda lines: read("\n".join(lines).encode("utf-8", "surrogatepass")), lines)


def test_files_that_include_one_another(ended, folder):
    (folder / "self").write_text(f"--flagfile={folder / 'self'}\n")
    (folder / "one").write_text(f"--flagfile={folder / 'two'}\n")
    (folder / "two").write_text(f"--seed=1\n-flagfile= {folder / 'one'} \n")
    for name in ("self", "one"):
        assert "flagfiles" in ended(f"--flagfile={folder / name}")


def test_files_that_double_at_each_step(ended, folder):
    for number in range(40):
        (folder / str(number)).write_text(f"--flagfile={folder / str(number + 1)}\n" * 2)
    (folder / "40").write_text("--seed=1\n")
    assert "flagfiles" in ended(f"--flagfile={folder / '0'}")
    assert ended(f"--flagfile={folder / '38'}") == RunConfig(seed=1)


def test_a_long_chain(ended, folder):
    for number in range(300):
        (folder / str(number)).write_text(f"--flagfile={folder / str(number + 1)}\n")
    (folder / "300").write_text("--seed=1\n")
    assert ended(f"--flagfile={folder / '0'}") == RunConfig(seed=1)


def test_what_is_no_file(ended, folder):
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    for place in (folder, folder / "pipe", folder / "zero", folder / "loop", "/dev/zero", "x" * 300, folder / "none"):
        assert isinstance(ended(f"--flagfile={place}"), str)
        assert isinstance(ended("--flagfile", str(place)), str)
        (folder / "outer").write_text(f"--flagfile={place}\n")
        assert isinstance(ended(f"--flagfile={folder / 'outer'}"), str)


@pytest.mark.parametrize(
    "content", [b"\0", b"--run_dir=a\0b", b"--flagfile=a\0b", b"\xff--seed=1", VALID.decode().encode("utf-16")]
)
def test_bytes_that_are_no_text(read, content):
    assert isinstance(read(content), str)
