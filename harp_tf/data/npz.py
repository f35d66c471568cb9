"""NumPy archives with x_train, y_train, x_test and y_test."""

import os
import zipfile
from pathlib import Path

import numpy as np

from harp_tf.data.expansion import check_expansion
from harp_tf.data.memory import Labelled, numbered_classes
from harp_tf.types import HarpError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(file: str) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Returns (images, labels) for training and for testing, and the class names ("0", "1", ...).

    Args:
        file: An archive with images [n, H, W] or [n, H, W, C], uint8 in [0, 255] or floats in [0, 1], and
            labels [n], integers 0 .. classes - 1. Pickled objects are refused.

    Raises:
        HarpError: If the file cannot be read, or images or labels are out of range.
    """
    path = Path(os.path.expanduser(file))
    if not os.path.isfile(path):
        raise HarpError(f"There is no file '{path}'. Give an .npz archive with {', '.join(KEYS)}.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            found = {key: f"{key}.npy" for key in KEYS if f"{key}.npy" in names}
            check_expansion(path, path.stat().st_size, sum(archive.getinfo(name).file_size for name in found.values()))
            arrays = {key: _array(archive, name) for key, name in found.items()}
    except HarpError:
        raise
    except Exception as error:  # NumPy, zip and zlib each raise their own kinds for a file they cannot read.
        raise HarpError(
            f"'{path}' could not be read as an .npz archive of plain arrays ({error}). Write it with "
            "numpy.savez('name.npz', x_train=..., y_train=..., x_test=..., y_test=...)."
        ) from error
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        held = [name.removesuffix(".npy") for name in names]
        raise HarpError(f"'{path}' holds {held}; {missing} is missing. Expected {', '.join(KEYS)}.")
    train = _images(arrays, "x_train", path), _labels(arrays, "y_train", path)
    test = _images(arrays, "x_test", path), _labels(arrays, "y_test", path)
    return train, test, numbered_classes(f"'{path}'", train[1])


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _images(arrays: dict[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    images = arrays[key]
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.size == 0:
        raise HarpError(f"'{path}': expected {key} of shape [n, H, W] or [n, H, W, C], received {images.shape}.")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise HarpError(f"'{path}': {key} is {images.dtype}; store images as uint8 in [0, 255] or float32 in [0, 1].")
    if not (images.min() >= 0 and images.max() <= 1):  # written so that NaN is refused as well
        raise HarpError(
            f"'{path}': {key} runs from {images.min():g} to {images.max():g}; float images must be in "
            "[0, 1]. Divide them by 255, or store them as uint8."
        )
    return images.astype(np.float32)


def _labels(arrays: dict[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    labels = arrays[key]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) == 0:
        raise HarpError(
            f"'{path}': expected {key} of shape [n], one class number per image, received {labels.shape}. "
            "For one-hot labels store labels.argmax(axis=1)."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise HarpError(f"'{path}': {key} is {labels.dtype}; labels must be integers 0 .. classes - 1.")
    if labels.min() < 0:
        raise HarpError(f"'{path}': {key} contains {labels.min()}; labels must be integers 0 .. classes - 1.")
    return labels.astype(np.int64)
