"""What images and labels must be, wherever they come in."""

import numpy as np

from harp_tf.types import HarpError


def require_images(images: np.ndarray) -> None:
    """Refuses images whose pixels are not numbers in [0, 1].

    Args:
        images: [n, ...] of any dtype.

    Raises:
        HarpError: if there is another value among them.
    """
    if images.dtype.kind not in "biuf" or (images.size and not (images.min() >= 0.0 and images.max() <= 1.0)):
        found = f"from {images.min():g} to {images.max():g}" if images.dtype.kind in "biuf" else f"of {images.dtype}"
        raise HarpError(
            f"Images must be finite and in [0, 1], received values {found}. Divide 8-bit images by 255; normalisation "
            "belongs inside the model."
        )


def class_indices(labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Labels as class indices.

    Args:
        labels: whole numbers [n] or [n, 1], of any dtype.
        count: n, the number of images.
        classes: number of classes.

    Returns:
        int32 [n].

    Raises:
        HarpError: if they are something else, or not in 0 .. classes - 1.
    """
    whole = labels.dtype.kind in "biuf" and np.equal(labels, np.floor(labels)).all()
    if labels.size != count or not whole:
        raise HarpError(
            f"Labels must be one class index per image, received shape {labels.shape} of {labels.dtype} for "
            f"{count} images. Turn one-hot labels into indices with labels.argmax(-1)."
        )
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise HarpError(
            f"Labels must be class indices from 0 to {classes - 1} for a network with {classes} outputs, received "
            f"values from {int(labels.min())} to {int(labels.max())}."
        )
    return labels.reshape(-1).astype(np.int32)
