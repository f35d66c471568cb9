"""Several processes of one training on this machine, as MultiWorkerMirroredStrategy joins them over loopback."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(number: int, arguments: Sequence[str], logs: Path) -> list[subprocess.Popen]:
    """Starts `python ARGUMENTS...` so many times, each as a worker of one cluster; output: logs/INDEX.out and .err."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
    logs.mkdir(exist_ok=True, parents=True)
    processes = []
    for index in range(number):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment |= {"TF_CONFIG": json.dumps(cluster), "CUDA_VISIBLE_DEVICES": "-1"}
        with open(logs / f"{index}.out", "wb") as out, open(logs / f"{index}.err", "wb") as err:
            command = [sys.executable, *arguments]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err))
    return processes


def wait(processes: Sequence[subprocess.Popen], seconds: float) -> list[int | None]:
    """Their exit statuses after so many seconds at most; None of one that still runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    return [process.poll() for process in processes]


@contextlib.contextmanager
def running(number: int, arguments: Sequence[str], logs: Path) -> Iterator[list[subprocess.Popen]]:
    """`start`, and whatever happens none of the processes outlives the block."""
    processes = start(number, arguments, logs)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def outcome(number: int, arguments: Sequence[str], logs: Path, seconds: float = 240) -> tuple[list[int | None], str]:
    """Exit statuses of such processes within so many seconds, and the end of what they said on standard error."""
    with running(number, arguments, logs) as processes:
        statuses = wait(processes, seconds)
    return statuses, "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(logs.glob("*.err")))
