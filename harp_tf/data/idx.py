"""IDX files, the format of MNIST and its relatives (Fashion-MNIST, KMNIST ...)."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from harp_tf.data.expansion import check_expansion
from harp_tf.data.memory import Labelled, numbered_classes
from harp_tf.types import HarpError

_UNSIGNED_BYTES = 8


def load(folder: str) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Returns (images, labels) for training and for testing, and the class names ("0", "1", ...).

    Args:
        folder: Holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
            `t10k-labels-idx1-ubyte`, each as it is or compressed (`.gz`).

    Returns:
        Images are uint8 [n, H, W, 1].

    Raises:
        HarpError: If a file is missing or damaged.
    """
    directory = Path(os.path.expanduser(folder))
    if not os.path.isdir(directory):
        raise HarpError(
            f"There is no folder '{directory}' with IDX files. On Debian, `apt-get install "
            "dataset-fashion-mnist` puts Fashion-MNIST into /usr/share/datasets/fashion-mnist; "
            "anywhere else use the data set fashion_mnist with --download (from TensorFlow Datasets)."
        )
    train = _part(directory, "train")
    test = _part(directory, "t10k")
    return train, test, numbered_classes(f"'{directory}'", train[1])


def _part(directory: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read(directory, f"{part}-images-idx3-ubyte", dimensions=3)
    labels = _read(directory, f"{part}-labels-idx1-ubyte", dimensions=1)
    return images[..., np.newaxis], labels.astype(np.int64)


def _read(directory: Path, name: str, dimensions: int) -> np.ndarray:
    path = directory / name
    if not path.is_file():
        path = directory / f"{name}.gz"
    if not path.is_file():
        raise HarpError(f"There is no file '{name}' or '{name}.gz' in '{directory}'. Put the four IDX files there.")
    try:
        return _values(path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise HarpError(f"'{path}' could not be read ({error}). Fetch it again.") from error


def _values(path: Path, dimensions: int) -> np.ndarray:
    # Two zero bytes, the element type, the number of dimensions, then each dimension as a big-endian 32-bit number.
    header, stored = 4 + 4 * dimensions, path.stat().st_size
    compressed = path.suffix == ".gz"
    with gzip.open(path) if compressed else path.open("rb") as file:
        head = file.read(header)
        if len(head) < header or head[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]):
            raise HarpError(
                f"'{path}' is not an IDX file of unsigned bytes with {dimensions} dimension(s). Fetch it again."
            )
        shape = struct.unpack(f">{dimensions}I", head[4:])
        announced = math.prod(shape)
        # A file cannot hold more than this: deflate compresses 1032:1 at most. Beyond it nothing is allocated.
        most = 1100 * stored if compressed else stored - header
        if announced <= most:
            check_expansion(path, stored, announced)
        content = file.read(min(announced, most) + 1)
    if len(content) != announced or 0 in shape:
        held = f"more than {announced}" if len(content) > announced else len(content)
        raise HarpError(
            f"'{path}' announces {list(shape)} values and holds {held}: it is cut off or damaged. Fetch it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
