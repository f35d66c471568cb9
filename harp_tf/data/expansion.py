"""A compressed file may not grow into something quite different while it is read."""

from pathlib import Path

from harp_tf.types import HarpError

FLOOR = 2**30
"""Bytes that any file may grow to: no machine that trains a network is hurt by them."""

FACTOR = 100
"""How much larger than its file the content may be, beyond the floor. Pictures compress to a half or a tenth."""


def check_expansion(path: Path, stored: int, announced: int) -> None:
    """Refuses what would fill the memory out of a small file, before anything is allocated.

    Args:
        path: the file, for the message.
        stored: bytes that it takes on the disk.
        announced: bytes that it says it grows to.

    Raises:
        HarpError: if it is a decompression bomb, or looks like one.
    """
    if announced > max(FLOOR, FACTOR * stored):
        raise HarpError(
            f"'{path}' announces {announced:,} bytes and has {stored:,} on the disk: it is damaged, or made to fill "
            "the memory. Fetch it again from where you trust it; images that really compress so well can be stored "
            "without compression."
        )
