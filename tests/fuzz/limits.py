"""The property that all fuzzing tests: accepted or refused, in time, and nothing else touched."""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harp_tf.types import HarpError

SECONDS = 10
_STARTED = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
}
_MOVED = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}


class Watch:
    """An audit hook that notes what Python itself opens, starts and removes (libraries in C are not seen).

    Attributes:
        on: whether it does.
        found: the events that are not allowed.
    """

    def __init__(self):
        self.on = False
        self.found: list[tuple] = []

    def begin(self, given: Path, outside: Path) -> None:
        self.found, self._given, self._outside = [], given.resolve(), outside.resolve()

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event in _STARTED:
            self.found.append((event, *map(str, arguments)))
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            written = isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
            self._note(event, arguments[0], bool(written))
        elif event in _MOVED and isinstance(arguments[0], (str, bytes)):
            self._note(event, arguments[0], True)

    def _note(self, event: str, name: str | bytes, written: bool) -> None:
        path = Path(name.decode(errors="surrogateescape") if isinstance(name, bytes) else name).absolute()
        allowed = (self._given, Path(tempfile.gettempdir()).resolve(), Path("/dev"), Path(".hypothesis").absolute())
        if path.is_relative_to(self._outside) or (written and not any(path.is_relative_to(place) for place in allowed)):
            self.found.append((event, str(path)))


WATCH = Watch()
sys.addaudithook(WATCH)  # for good: Python cannot take one away


@contextlib.contextmanager
def in_time(seconds: float = SECONDS):
    """Fails what takes longer, also where it waits for a pipe."""

    def fail(*_):
        raise AssertionError(f"not finished within {seconds} s")

    earlier = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def outcome(call: Callable, seconds: float = SECONDS):
    """What `call` returns, or the `HarpError` with which it refuses; every other exception goes through."""
    with in_time(seconds):
        WATCH.on = True
        try:
            return call()
        except HarpError as error:
            assert str(error).strip()
            return error
        finally:
            WATCH.on = False


def refused(call: Callable) -> str:
    """The message of what must be refused."""
    found = outcome(call)
    assert isinstance(found, HarpError), f"accepted: {found!r:.200}"
    return str(found)


def amounts(few: int, many: int):
    """Runs a test with a few examples, and with many where slow tests run."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def fuzz(examples: int, property: Callable, *strategies) -> None:
    """Tries a property on examples that are the same in every run."""

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.tuples(*strategies))
    def check(drawn):
        property(*drawn)

    check()
