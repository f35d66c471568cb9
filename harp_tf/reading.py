"""What comes from outside: text never from a pipe or without end, JSON that means one thing, no decompression bombs."""

import errno
import json
import os
import stat
from typing import Any

LIMIT = 64 * 2**20
"""Bytes of the largest text file that is read."""


FLOOR = 2**30
"""Bytes that any file may grow to: no machine that trains a network is hurt by them."""

FACTOR = 100
"""How much larger than its file the content may be, beyond the floor. Pictures compress to a half or a tenth."""


def is_bomb(stored: int, announced: int) -> bool:
    """Whether a file of `stored` bytes that announces so many seems to be made to fill the memory."""
    return announced > max(FLOOR, FACTOR * stored)


def read_text(path: str | os.PathLike) -> str:
    """Reads a UTF-8 file.

    Args:
        path: a regular file, or a link to one. A pipe or a device, which may never end, is refused without a wait.

    Returns:
        The content.

    Raises:
        OSError: if there is no such file, or it is of another kind.
        ValueError: if it is larger than `LIMIT` or no UTF-8 text, or the path holds a null byte.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
        parts, left = [], LIMIT + 1
        while left and (part := os.read(descriptor, min(left, 2**20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    data = b"".join(parts)
    if len(data) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT // 2**20} MiB")
    return data.decode("utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Args:
        path: as of `read_text`.

    Returns:
        What the file says.

    Raises:
        OSError: as of `read_text`.
        ValueError: as of `read_text`, or if it is no JSON, says a name twice in one object, or is nested too deeply.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """`json.loads` that refuses, as a ValueError, what it would guess at or give up on."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return content
