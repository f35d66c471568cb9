"""Writing files that are either whole or not there, and that are the same for the same content."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from harp_tf.types import HarpError


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file through a temporary one in the same folder.

    Args:
        path: where to write; an existing file is replaced, its folder must exist.
        data: the content.

    Raises:
        HarpError: if it cannot be written; an existing file is then as it was.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise HarpError(
            f"Expected to write {len(data)} bytes to {str(path)!r}, received {error.strerror or error}. "
            "Free space there or choose another path."
        ) from error


def sync_folder(folder: str | os.PathLike) -> None:
    """Waits until the names in a folder are on the disk: without it a power cut may undo a renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes the temporary files and folders that killed processes have left of writing into a folder."""
    for path in Path(folder).glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name of nobody beside a file or folder, for what takes its place when it is whole."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def checksum(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def arrays_checksum(*arrays: np.ndarray) -> str:
    """The SHA-256 of the values of arrays, in hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def sizes(data: bytes) -> tuple[int, int]:
    """Number of bytes, as they are and compressed by gzip at its usual level, 6."""
    return len(data), len(gzip.compress(data, compresslevel=6, mtime=0))


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes JSON with two spaces of indentation, atomically; see `write_atomically`."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as an .npz file, atomically; see `write_atomically`."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def save_keras(model: keras.Model, path: str | os.PathLike) -> None:
    """Saves a model as a .keras file whose bytes depend on the model alone, atomically.

    Keras writes the time of saving and addresses in memory into the file; a constant and running numbers take
    their place here, so that two equal runs leave equal files.

    Args:
        model: the model.
        path: where to write.

    Raises:
        HarpError: if the file cannot be written.
    """
    buffer = io.BytesIO()
    try:
        with tempfile.TemporaryDirectory() as folder:
            original = Path(folder) / "model.keras"
            model.save(original)
            with zipfile.ZipFile(original) as source, zipfile.ZipFile(buffer, "w") as target:
                for name in source.namelist():
                    content = source.read(name)
                    if name == "metadata.json":
                        content = json.dumps({**json.loads(content), "date_saved": "1980-01-01@00:00:00"}).encode()
                    elif name == "config.json":
                        content = json.dumps(_numbered(json.loads(content), {})).encode()
                    target.writestr(zipfile.ZipInfo(name), content)
    except OSError as error:
        raise HarpError(
            f"Expected to save the model in {tempfile.gettempdir()!r} on its way to {str(path)!r}, received "
            f"{error.strerror or error}. Free space there or set TMPDIR to another folder."
        ) from error
    write_atomically(path, buffer.getvalue())


def _numbered(config: Any, numbers: dict[int, int]) -> Any:
    """A model's configuration with the ids of its shared objects (their addresses) numbered as they come."""
    if isinstance(config, dict):
        return {
            key: numbers.setdefault(value, len(numbers)) if key == "shared_object_id" else _numbered(value, numbers)
            for key, value in config.items()
        }
    return [_numbered(value, numbers) for value in config] if isinstance(config, list) else config
