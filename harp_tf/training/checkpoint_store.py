"""Checkpoints on disk: each whole or not there, checked by its checksums; the last ones are kept, and the best."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harp_tf.files import checksum, remove_leftovers, sync_folder, temporary_name
from harp_tf.reading import read_json
from harp_tf.types import HarpError

_NAME = re.compile(r"epoch_(\d{1,9})_step_(\d{1,9})(_best)?")
_ARRAYS, _MANIFEST = "arrays.npz", "manifest.json"

Arrays = Mapping[str, np.ndarray | keras.Variable]


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """How far a training has come.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps of the epoch that has begun.
    """

    epoch: int = 0
    step: int = 0


class CheckpointStore:
    """A folder of checkpoints of one training.

    A checkpoint is a folder, named after its position, with the arrays (arrays.npz, no pickles) and manifest.json,
    which holds the size and the SHA-256 of the arrays and of itself. It is written under another name, synced and
    renamed. The last ones are kept, and of those that were the best when they were written the newest.

    Args:
        folder: made when there is something to save.
        keep: how many of the last ones to keep, >= 1.
        say: receives a line for every damaged checkpoint.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2, say: Callable[[str], None] = print):
        self.folder, self.keep, self.say = Path(folder), keep, say

    def save(self, position: Position, arrays: Arrays, best: bool = False) -> None:
        """Writes a checkpoint, and then removes those that are no longer kept.

        Args:
            position: how far the training has come.
            arrays: its state by name; variables are read one after another.
            best: whether no earlier checkpoint was better.

        Raises:
            HarpError: if it cannot be written; those before it are as they were.
        """
        name = f"epoch_{position.epoch:04d}_step_{position.step:07d}" + ("_best" if best else "")
        target = self.folder / name
        temporary = temporary_name(target)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                temporary.mkdir()
                _write_manifest(temporary, position, _write_arrays(temporary / _ARRAYS, arrays))
                sync_folder(temporary)
                if target.exists():  # newer than what the training went on from: damaged
                    self._remove(target)
                os.rename(temporary, target)
                sync_folder(self.folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            # From shapes: to read variables that replicas keep apart takes all workers.
            needed = sum(math.prod(a.shape) * tf.as_dtype(a.dtype).size for a in arrays.values())
            raise HarpError(
                f"A checkpoint of {needed:,} bytes could not be written to {self.folder}: "
                f"{error.strerror or error}. The one before it is whole: make room and start the run again as before, "
                "and it goes on from there."
            ) from error
        for path in self._found():
            if _position(path) >= position and path != target:  # newer: damaged, or it would have been gone on from
                self._remove(path)
        found = self._found()
        of_the_best = [path for path in found if path.name.endswith("_best")]
        for path in found[: -self.keep]:
            if path not in of_the_best[-1:]:
                self._remove(path)

    def newest(self) -> tuple[Position, dict[str, np.ndarray]] | None:
        """Position and arrays of the newest checkpoint that is whole, None if there is none; names damaged ones."""
        remove_leftovers(self.folder)
        damaged = 0
        for path in reversed(self._found()):
            try:
                manifest = _checked_manifest(path)
                position = Position(manifest["epoch"], manifest["step"])
                with np.load(path / _ARRAYS, allow_pickle=False) as file:
                    arrays = dict(file)
                for name, dtype in manifest["dtypes"].items():
                    arrays[name] = arrays[name].view(dtype)
            except Exception as error:  # JSON, NumPy, zip and zlib each raise their own for a damaged file
                damaged += 1
                self.say(f"The checkpoint {path} is damaged and left out: {error}.")
                continue
            return position, arrays
        if damaged:
            self.say(f"No checkpoint in {self.folder} is whole: this training begins anew.")
        return None

    def latest(self) -> Path | None:
        """The newest checkpoint, whole or not; None if there is none."""
        return next(reversed(self._found()), None)

    def clear(self) -> None:
        """Removes all checkpoints, and the folder if nothing else is in it."""
        for path in self._found():
            self._remove(path)
        remove_leftovers(self.folder)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _found(self) -> list[Path]:
        """The checkpoints, the oldest first; by their names, for clocks go wrong."""
        found = [path for path in self.folder.glob("epoch_*") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: (_position(path), path.name))

    def _remove(self, path: Path) -> None:
        """Removes a checkpoint, which is at no moment half there under its name."""
        temporary = temporary_name(path)
        with contextlib.suppress(OSError):
            os.rename(path, temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _position(path: Path) -> Position:
    """The position that the name of a checkpoint says."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return Position(int(match[1]), int(match[2]))


def _write_arrays(path: Path, arrays: Arrays) -> dict[str, str]:
    """Writes an .npz file with one array in memory at a time, and syncs it; returns types that .npz does not know."""
    dtypes = {}
    with open(path, "xb") as file:
        with zipfile.ZipFile(file, "w") as target:
            for name, variable in arrays.items():
                array = keras.ops.convert_to_numpy(variable)
                if array.dtype.kind == "V":  # bfloat16 and its like
                    dtypes[name] = str(array.dtype)
                with target.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return dtypes


def _write_manifest(folder: Path, position: Position, dtypes: dict[str, str]) -> None:
    path = folder / _ARRAYS
    content = {
        "format": 1,
        **dataclasses.asdict(position),
        "dtypes": dtypes,
        "files": {_ARRAYS: {"bytes": path.stat().st_size, "sha256": checksum(path)}},
    }
    with open(folder / _MANIFEST, "x", encoding="utf-8") as file:
        json.dump({**content, "sha256": _digest(content)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint which is, with its arrays, as it was written.

    Raises:
        Exception: of many kinds, if they are not.
    """
    content = read_json(folder / _MANIFEST)
    written = content.pop("sha256")
    if written != _digest(content) or content["format"] != 1:
        raise ValueError("its manifest is not what was written")
    expected = content["files"][_ARRAYS]
    if not (folder / _ARRAYS).is_file():  # a pipe would be waited for
        raise ValueError(f"{_ARRAYS} is no file")
    with open(folder / _ARRAYS, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected["bytes"]:
            raise ValueError(f"{_ARRAYS} has {size:,} bytes instead of {expected['bytes']:,}")
        if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
            raise ValueError(f"{_ARRAYS} does not have the checksum that its manifest says")
    return content


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
