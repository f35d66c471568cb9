"""Disk and memory: whether there is enough, and one clear error before the system ends the run without any."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from harp_tf.training.watchdogs import Finding
from harp_tf.types import HarpError

_GIB = 2**30


def require_disk(folder: str | Path, needed: int, what: str) -> None:
    """Refuses to begin what would fill the disk.

    Args:
        folder: where it will be written; exists.
        needed: bytes.
        what: what will be written, for the message.

    Raises:
        HarpError: if fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HarpError(
            f"{what} needs {needed:,} bytes in {folder}, and {free:,} are free there. Free {needed - free:,} bytes, or "
            "choose another --run_dir."
        )


def training_bytes(model: keras.Model, copies: int) -> int:
    """The most that a training writes, in bytes: checkpoints and the model at its end.

    Args:
        model: a compiled AdversarialModel whose optimiser is built.
        copies: how many checkpoints exist at one time.
    """
    network = sum(_size(v) for v in model.network.variables)
    state = network + sum(_size(v) for v in model.optimizer.variables)
    best = network  # of the best epoch so far, beside those of now
    return copies * (state + best) + 2 * network


def _size(variable: keras.Variable) -> int:
    return math.prod(variable.shape) * tf.as_dtype(variable.dtype).size


def available_memory(root: str | Path = "/") -> tuple[int, int] | None:
    """Bytes that this process may still take, swap included, and all that there are, as Linux tells them.

    The smaller of the machine's and those of the control group (a container's limit); None where nothing tells.

    Args:
        root: the folder that holds proc/ and sys/.
    """
    found = [numbers for numbers in (_of_machine(Path(root)), _of_group(Path(root))) if numbers is not None]
    return min(found, default=None)


def _of_machine(root: Path) -> tuple[int, int] | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        available, total = kib["MemAvailable"] + kib["SwapFree"], kib["MemTotal"] + kib["SwapTotal"]
        return 1024 * available, 1024 * total
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _of_group(root: Path) -> tuple[int, int] | None:
    version_2 = ("memory.max", "memory.current", "inactive_file")
    version_1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
    for limit_file, used_file, cache in (version_2, version_1):
        try:
            folder = root / "sys/fs/cgroup"
            limit = int((folder / limit_file).read_text(encoding="utf-8"))  # "max" where there is none
            used = int((folder / used_file).read_text(encoding="utf-8"))
            lines = (folder / limit_file).with_name("memory.stat").read_text(encoding="utf-8").splitlines()
            reclaimable = {name: int(number) for name, number in (line.split() for line in lines)}.get(cache, 0)
            return limit - used + reclaimable, limit
        except (OSError, ValueError):
            continue
    return None


def resident_memory(root: str | Path = "/") -> int | None:
    """Bytes of memory that this process holds; None where nothing tells."""
    try:
        pages = int((Path(root) / "proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class WatchMemory(keras.callbacks.Callback):
    """Warns once when memory runs short, and ends the training with an error before the system kills it.

    Warns below 5 % of the memory or 1 GiB, whichever is less, and when the growth of this process since the end of its
    second epoch, going on, would leave less than that before the stage ends; stops below a quarter of it.
    Does nothing where the system does not tell (no /proc).

    Attributes:
        warnings: what was found new in the latest epoch.

    Args:
        epochs: number of epochs of the stage.
        say: receives the warning.
        every: training steps between two looks.
        root: as for `available_memory`.
    """

    def __init__(self, epochs: int, say: Callable[[str], None] = print, *, every: int = 20, root: str | Path = "/"):
        super().__init__()
        self.epochs, self.say, self.every, self.root = epochs, say, every, root
        self.warnings: list[Finding] = []
        self._warned = False
        self._batches = 0
        self._sizes: list[int] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.warnings = []

    def on_train_batch_begin(self, batch, logs=None):
        self._batches += 1
        if self._batches % self.every == 0:
            self._look()

    def on_epoch_end(self, epoch, logs=None):
        size, memory = resident_memory(self.root), available_memory(self.root)
        if size is None or memory is None:
            return
        self._sizes.append(size)
        grown, rounds = size - self._sizes[min(1, len(self._sizes) - 1)], len(self._sizes) - 2
        left = self.epochs - epoch - 1
        if rounds >= 2 and grown / rounds * left > memory[0] - _short(memory[1]):
            self._warn(
                f"This process grew by {grown / rounds / 2**20:,.0f} MiB of memory per epoch, and "
                f"{memory[0] / 2**20:,.0f} MiB are left for {left} more. It may not reach the end: lower --batch_size, "
                "or raise --accumulate."
            )

    def _look(self) -> None:
        memory = available_memory(self.root)
        if memory is None:
            return
        available, total = memory
        found = f"Of {total / 2**20:,.0f} MiB of memory only {available / 2**20:,.0f} are left"
        advice = "Lower --batch_size, raise --accumulate, or end other programs"
        if available < _short(total) / 4:
            raise HarpError(
                f"{found}, and the system would soon have killed this run without a word, so it stops. {advice}."
            )
        if available < _short(total):
            self._warn(f"{found}. {advice}, or the run may be stopped.")

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.warnings = [Finding("memory", "", text)]
            self.say(str(self.warnings[0]))


def _short(total: int) -> float:
    """Below so many available bytes of a total memory is short."""
    return min(0.05 * total, _GIB)
