"""What an interrupted evaluation has measured already, batch by batch."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from harp_tf.files import write_json, write_npz

Record = dict[str, np.ndarray]

_KEYS = "keys"
"""The names of the arrays: a damaged directory of a zip file may lose one without an error."""
_CHECKSUM = "checksum"
"""The checksum of the batch's images and labels: who mends data between two tries must not get figures of both."""


class State:
    """A folder with one file per finished batch, each whole or not there, and the description of what is measured.

    Records of another description are of no use and are removed.

    Args:
        folder: made if it does not exist.
        identity: JSON-serialisable description of model, data, attacks and seed.
        say: receives a line for every record that is there and cannot be used.
    """

    def __init__(self, folder: str | Path, identity: Mapping, say: Callable[[str], None] = print):
        self._folder, self._say = Path(folder), say
        description = self._folder / "state.json"
        wanted = json.loads(json.dumps(identity))
        if _read(description) != wanted:
            self.clear()
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(description, wanted)

    @property
    def finished(self) -> int:
        """How many batches are there."""
        return len(list(self._folder.glob("batch_*.npz")))

    def load(self, number: int, checksum: str) -> Record | None:
        """The record of a batch, None if it is not there or, which is said, damaged or of other images.

        Args:
            number: of the batch.
            checksum: of the batch, see `files.arrays_checksum`.
        """
        path = self._path(number)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                record = dict(file)
            measured = str(record.pop(_CHECKSUM))
            if sorted(record.pop(_KEYS).tolist()) != sorted(record):
                raise ValueError("arrays are missing")
        except Exception as error:  # NumPy, zip and zlib each raise their own for a damaged file
            self._say(f"{path} is damaged ({error or type(error).__name__}): this batch is measured anew.")
            return None
        if measured != checksum:
            self._say(f"{path} is of other images or labels than the data have now: this batch is measured anew.")
            return None
        return record

    def save(self, number: int, checksum: str, record: Record) -> None:
        """Writes the record of a batch; the arguments are as for `load`."""
        added = {_KEYS: np.array(list(record)), _CHECKSUM: np.array(checksum)}
        write_npz(self._path(number), {**record, **added})

    def clear(self) -> None:
        """Removes what was saved, and the folder if nothing else is in it: the evaluation is done."""
        for path in (self._folder / "state.json", *self._folder.glob("batch_*.npz")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _path(self, number: int) -> Path:
        return self._folder / f"batch_{number:06d}.npz"


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
