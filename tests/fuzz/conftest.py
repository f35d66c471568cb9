"""Limits that every test of this folder runs under: memory, and what may be opened."""

import resource

import pytest

from harp_tf import cli_flags
from harp_tf.config import RunConfig
from harp_tf.types import HarpError
from tests.fuzz.limits import WATCH, in_time

_MORE_MEMORY = 6 * 2**30


@pytest.fixture(autouse=True)
def bounded_memory():
    """Whoever allocates what a file announces gets a MemoryError, or crashes."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MORE_MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def folder(tmp_path):
    """The folder that a test gives to the library, beside one that it does not give."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    (tmp_path / "given").mkdir()
    WATCH.begin(tmp_path / "given", tmp_path / "outside")
    yield tmp_path / "given"
    assert WATCH.found == []


@pytest.fixture
def outside(folder):
    """A folder that is not to be read or written; it holds secret.txt."""
    return folder.parent / "outside"


@pytest.fixture
def ended(fresh_flags, capsys):
    """How a program that is given these arguments ends before it begins."""

    def run(*arguments: str) -> RunConfig | str:
        fresh_flags()
        cli_flags.define_settings()
        capsys.readouterr()
        with in_time():
            try:
                rest = cli_flags._parse(["train", *arguments])
                return cli_flags.read_settings() if len(rest) == 1 else "Unexpected argument"
            except HarpError as error:
                return str(error)
            except SystemExit as error:
                shown = capsys.readouterr().err
                assert error.code == cli_flags.EXIT_MISTAKE and shown.startswith("error: ")
                assert shown.endswith("\n") and shown.count("\n") == 1, shown
                return shown

    return run
