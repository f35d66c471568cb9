"""Signals that ask a run to end, SIGTERM of schedulers and SIGINT of the keyboard: it saves its work first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ASKS_TO_END = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """Ends the program with the status that schedulers expect: 128 plus the number of the signal.

    Args:
        number: of the signal.
        where: what was being done, for people.
    """

    def __init__(self, number: int, where: str):
        super().__init__(128 + number)
        self.name, self.where = signal.Signals(number).name, where


class Interruption:
    """What to do when a signal asks to end: at once, or, inside `deferred`, when the training has saved its state.

    A second one of the same kind does what it does without this class.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._wait = False
        self._before: dict[int, object] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Listens to signals; only the main thread can, in others this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = {number: signal.signal(number, self._handle) for number in _ASKS_TO_END}
        try:
            yield
        finally:
            for number in list(self._before):
                self._restore(number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside of it a signal is only noted in `received`, and whoever trains raises `Interrupted`."""
        self._wait = True
        try:
            yield
        finally:
            self._wait = False
        if self.received is not None:
            raise Interrupted(self.received, "at the end of a training")

    def check(self) -> None:
        """Raises `Interrupted` if a signal has come: what a handler raises inside of a finaliser Python swallows."""
        if self.received is not None:
            raise Interrupted(self.received, "between two trainings")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._restore(number)
        self.received = number
        if not self._wait:
            raise Interrupted(number, "between two trainings")

    def _restore(self, number: int) -> None:
        signal.signal(number, self._before.pop(number))  # type: ignore[arg-type]
