"""Folders of images, one folder per class."""

import hashlib
import math
import os
import struct
from pathlib import Path

import numpy as np
import tensorflow as tf

from harp_tf.data.expansion import check_expansion
from harp_tf.data.memory import Labelled, part_of_class
from harp_tf.types import HarpError

ENDINGS = (".png", ".jpg", ".jpeg")
_OTHER_PICTURES = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".webp")
TEST_FRACTION = 0.2
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def load(folder: str) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Returns (images, labels) for training and for testing, and the class names in alphabetical order.

    Args:
        folder: Holds `train/CLASS/*.png` and `test/CLASS/*.png`, or `CLASS/*.png` (then a fifth of every
            class becomes the test set, chosen by the names of the files, so the same in all runs); JPEG as well. All
            images must be of one size.
            `folder` may be a link; links inside it must stay inside it.

    Returns:
        Images are uint8 [n, H, W, C], with three channels as soon as one image has colour.

    Raises:
        HarpError: If a folder or its images cannot be used; the message names the culprit.
    """
    root = Path(os.path.expanduser(folder))
    try:
        return _load(root)
    except (OSError, ValueError) as error:
        if isinstance(error, HarpError):
            raise
        raise HarpError(f"The folder '{root}' could not be read ({error}).") from error


def _load(root: Path) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    if not os.path.isdir(root):
        raise HarpError(f"There is no folder '{root}'. Give one with train/CLASS/*.png and test/CLASS/*.png.")
    if not (root / "train").is_dir():
        images, labels, names, files = _read(root, root)
        test = _test_part(labels, files)
        return (images[~test], labels[~test]), (images[test], labels[test]), names
    if not (root / "test").is_dir():
        raise HarpError(f"'{root}' has a folder 'train' but no folder 'test'. Add one, or give '{root / 'train'}'.")
    images, labels, names, _ = _read(root / "train", root)
    test_images, test_labels, test_names, _ = _read(root / "test", root)
    if names != test_names:
        raise HarpError(
            f"'{root}': the classes in train are {list(names)}, in test {list(test_names)}; they must agree."
        )
    if images.shape[-1] != test_images.shape[-1]:  # one of the two is grey throughout
        images, test_images = (np.broadcast_to(part, (*part.shape[:3], 3)) for part in (images, test_images))
    return (images, labels), (test_images, test_labels), names


def _test_part(labels: np.ndarray, files: list[Path]) -> np.ndarray:
    """Which images are for testing, bool [n]: of every class a fifth, those whose names have the smallest checksums.

    So files stay on their sides when others come or go, but for the few between which the border then moves.
    """
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = sorted(
            np.flatnonzero(labels == label), key=lambda i: hashlib.sha256(os.fsencode(files[i].name)).digest()
        )
        test[members[: part_of_class(TEST_FRACTION, len(members))]] = True
    return test


def _read(folder: Path, root: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], list[Path]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise HarpError(f"'{folder}' holds {len(classes)} class folder(s); expected one folder per class, at least 2.")
    files = []
    labels = []
    for label, directory in enumerate(classes):
        _check_class(directory, root)
        _check_kinds(directory)
        found = sorted(path for path in directory.iterdir() if path.suffix.lower() in ENDINGS)
        if len(found) < 2:
            raise HarpError(
                f"Class folder '{directory}' holds {len(found)} images ({', '.join(ENDINGS)}); at least 2 "
                "are needed. Add images or remove the folder."
            )
        files += found
        labels += [label] * len(found)
    sizes = [_size(path, root) for path in files]
    for path, size in zip(files, sizes):
        if size != sizes[0]:
            raise HarpError(
                f"'{path}' has {size[0]}x{size[1]} pixels (height x width), '{files[0]}' "
                f"{sizes[0][0]}x{sizes[0][1]}. Resize all images to one size."
            )
    check_expansion(folder, sum(path.stat().st_size for path in files), 3 * len(files) * math.prod(sizes[0]))
    images = [_decode(path) for path in files]
    colour = any(image.shape[-1] >= 3 for image in images)
    return (
        np.stack([_channels(image, colour) for image in images]),
        np.array(labels),
        tuple(d.name for d in classes),
        files,
    )


def _check_kinds(directory: Path) -> None:
    """Refuses pictures that cannot be read, which nobody would miss if they were left out in silence."""
    others = sorted(path.name for path in directory.iterdir() if path.suffix.lower() in _OTHER_PICTURES)
    if others:
        raise HarpError(
            f"Class folder '{directory}' holds {len(others)} pictures that are neither PNG nor JPEG, '{others[0]}' for "
            "one. Convert or remove them."
        )


def _check_class(directory: Path, root: Path) -> None:
    """Refuses a folder whose name cannot be written into reports, or that lies elsewhere."""
    if not directory.name.isprintable():  # line breaks, or bytes that are no UTF-8
        raise HarpError(f"The class folder {str(directory)!r} has a name that cannot be shown. Rename it.")
    _check_inside(directory, root)


def _check_inside(path: Path, root: Path) -> None:
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise HarpError(
            f"'{path}' is a link to '{real}', outside of '{root}'. Put the files themselves there; hard links "
            "(cp -rlL) need no space."
        )


def _size(path: Path, root: Path) -> tuple[int, int]:
    """Height and width of an image, from its first bytes: nothing is decoded yet."""
    _check_inside(path, root)
    if not path.is_file():
        raise HarpError(f"'{path}' is no regular file, so it could not be read as an image. Replace or remove it.")
    with path.open("rb") as file:
        start = file.read(24)
        if start[:8] == _PNG and len(start) == 24:
            width, height = struct.unpack(">II", start[16:])
            return height, width
        content = start + file.read() if start[:3] == _JPEG else b""
    try:
        height, width, _ = tf.io.extract_jpeg_shape(content).numpy()
        return int(height), int(width)
    except tf.errors.OpError as error:
        raise HarpError(f"'{path}' could not be read as an image. Replace or remove it.") from error


def _decode(path: Path) -> np.ndarray:
    try:
        return tf.io.decode_image(path.read_bytes(), expand_animations=False).numpy()
    except (OSError, tf.errors.OpError) as error:
        raise HarpError(f"'{path}' could not be read as an image. Replace or remove it.") from error


def _channels(image: np.ndarray, colour: bool) -> np.ndarray:
    """Drops transparency (the 2nd of 2, the 4th of 4 channels) and repeats grey where others have colour."""
    if not colour:
        return image[..., :1]
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
