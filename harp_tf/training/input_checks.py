"""Checks of the data on the host, before the first compiled step."""

import keras
import numpy as np
import tensorflow as tf

from harp_tf.types import HarpError

_LOOKED_AT = 32
"""So many images are shown to the network: enough to know its outputs, few enough for a large network."""


def check_first_batch(network: keras.Model, x, y=None) -> None:
    """Refuses data on which attacks and losses would be silently wrong.

    Looks at whole arrays, or at the first batch of a tf.data.Dataset or a keras PyDataset. Generators are not
    touched, since what is read from them is gone.

    Args:
        network: the classifier.
        x: what `fit` got: an array of images or a dataset of (images, labels).
        y: labels, if `x` is an array.

    Raises:
        HarpError: if images are outside [0, 1], labels are no class indices of the network, or the network
            returns probabilities instead of logits.
    """
    if isinstance(x, tf.data.Dataset):
        for batch in x.take(1):
            _check_element(network, batch)
    elif isinstance(x, keras.utils.PyDataset):
        _check_element(network, x[0])
    elif y is not None and hasattr(x, "shape"):
        check_batch(network, np.asarray(x), np.asarray(y))


def _check_element(network: keras.Model, element) -> None:
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(element)
    if labels is None:
        raise HarpError("The dataset must yield (images, labels) or (images, labels, weights), received images only.")
    check_batch(network, np.asarray(images), np.asarray(labels))


def check_batch(network: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """The checks of `check_first_batch` on images and labels; the network sees the first few of them."""
    if images.size and not (images.min() >= 0.0 and images.max() <= 1.0):
        raise HarpError(
            f"Images must be finite and in [0, 1], received values from {images.min():g} to {images.max():g}. Divide "
            "8-bit images by 255; normalisation belongs inside the model."
        )
    logits = keras.ops.convert_to_numpy(network(images[:_LOOKED_AT].astype("float32"), training=False))
    logits = logits.astype("float64")
    classes = logits.shape[-1]
    if labels.size != len(images) or not np.equal(labels, np.floor(labels)).all():
        raise HarpError(
            f"Labels must be one class index per image, received shape {labels.shape} of {labels.dtype} for "
            f"{len(images)} images. Turn one-hot labels into indices with labels.argmax(-1)."
        )
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise HarpError(
            f"Labels must be class indices from 0 to {classes - 1} for a network with {classes} outputs, received "
            f"values from {int(labels.min())} to {int(labels.max())}."
        )
    if logits.size and (logits >= 0).all() and np.allclose(logits.sum(-1), 1.0, atol=1e-3):
        raise HarpError(
            "The network returns probabilities (a softmax output), and attacks on those see vanishing gradients. "
            "Remove the softmax: the last layer must return logits (activation=None)."
        )
