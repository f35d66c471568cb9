"""One process per cell, and one comparison at a time in a directory.

Starting TensorFlow costs about 4 seconds of processor time per cell. In return a cell is made by the very command that
is recorded for it, nothing of one cell reaches another, one that runs out of memory takes no other with it, and memory
is given back: cells in one process left about 40 MB each.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

_running: set[subprocess.Popen] = set()


def interrupt() -> None:
    """Asks all processes of `execute` that run to save and end.

    Not by SIGINT: a process started in the background ignores it, and where Ctrl-C has sent one to all processes of a
    terminal, a second one would end a cell before it has saved.
    """
    for process in list(_running):
        process.terminate()


@contextlib.contextmanager
def alone(directory: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Holds a lock on a directory, and waits for it where another process has it.

    Args:
        directory: an existing folder.
        say: receives a line if there is something to wait for.

    Yields:
        A file descriptor. Who inherits it holds the lock as long as it runs, so that a cell whose comparison was killed
        is not made twice at once.
    """
    with open(directory / ".lock", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another comparison in {directory}, or for a cell that one has left behind.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def execute(arguments: Sequence[str], log: Path, lock: int, threads: int | None = None) -> str:
    """Runs `python ARGUMENTS...` and copies what it prints to a file.

    It prints into a pipe, not into the file: when the comparison is killed, the next line that the cell prints ends it.

    Args:
        arguments: the arguments of python.
        log: file that is appended to.
        lock: file descriptor of `alone`.
        threads: of TensorFlow, unless the environment says how many; None leaves it to TensorFlow.

    Returns:
        Why it failed, "" if it did not.
    """
    several = {} if threads is None else dict.fromkeys(_THREADS, str(threads))
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **several, **os.environ, "PYTHONUNBUFFERED": "1"}
    last = ""
    with (
        open(log, "ab") as file,
        subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[lock],
        ) as process,
    ):
        assert process.stdout is not None
        _running.add(process)
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                last = line.decode("utf-8", "replace").strip() or last
        finally:
            _running.discard(process)
    status = process.returncode
    if status == 0:
        return ""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}; its last line was {last!r}"
    return last.removeprefix("error: ") or f"ended with status {status}"
