"""A compressed file may not grow into something quite different while it is read."""

from pathlib import Path

from harp_tf.reading import is_bomb
from harp_tf.types import HarpError


def check_expansion(path: Path, stored: int, announced: int) -> None:
    """Refuses what would fill the memory out of a small file, before anything is allocated.

    Args:
        path: the file, for the message.
        stored: bytes that it takes on the disk.
        announced: bytes that it says it grows to.

    Raises:
        HarpError: if it is a decompression bomb, or looks like one.
    """
    if is_bomb(stored, announced):
        raise HarpError(
            f"'{path}' announces {announced:,} bytes and has {stored:,} on the disk: it is damaged, or made to fill "
            "the memory. Fetch it again from where you trust it; images that really compress so well can be stored "
            "without compression."
        )
