"""Checks of the network and the data on the host, before the first compiled step."""

import types
import warnings

import keras
import numpy as np
import tensorflow as tf

from harp_tf.attacks.checks import one_answer
from harp_tf.inputs import class_indices, require_images
from harp_tf.layers.rebuild import require_built
from harp_tf.types import HarpError

_LOOKED_AT = 2
"""So many images are shown to the network: enough to know its outputs, and fewer than a training step computes. With
more, this look was what took the most memory of the training of a large network in small batches."""

_MOVING = tuple(
    getattr(keras.layers, name)
    for name in (
        "AugMix CutMix MixUp RandAugment RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomPerspective "
        "RandomRotation RandomShear RandomTranslation RandomZoom"
    ).split()
    if hasattr(keras.layers, name)
)
"""Layers that move, cover or mix pixels at random in training."""

_TOLD_APART, _PIECE = 64, 8
"""So many images must not all get the same class from a trained network; shown to it in pieces, for the same reason."""


def check_network(network: object) -> None:
    """Refuses what is no classifier of images, as far as it can be seen without data.

    Raises:
        HarpError: if `network` is no built Keras 3 model, or has not one input and one output of logits.
    """
    require_built(network)
    assert isinstance(network, keras.Model)
    moving = [layer.name for layer in network._flatten_layers() if isinstance(layer, _MOVING)]
    if moving:
        warnings.warn(
            f"Model {network.name!r} changes its training images inside, in {', '.join(moving)}. Attacks are made for "
            "the images as they came, and a perturbation that is moved with them fools less: the network learns to "
            "withstand less. Take the layers out, and change the images before, in tf.data.",
            stacklevel=3,
        )
    for what in ("inputs", "outputs"):
        tensors = getattr(network, what, None)  # not known of a subclassed model
        if tensors is not None and len(tensors) != 1:
            raise HarpError(
                f"Model {network.name!r} has {len(tensors)} {what}. Adversarial training needs a classifier with one "
                "input, the images, and one output, the logits: keras.Model(images, logits)."
            )
        if tensors is not None and what == "outputs":
            _check_logits_shape(tuple(tensors[0].shape))


def _check_logits_shape(shape: tuple) -> None:
    if len(shape) != 2 or shape[-1] == 1:
        raise HarpError(
            f"The network must return logits of the shape (images, classes) with at least 2 classes, it returns "
            f"{shape}. End it with Flatten or pooling and Dense(classes); two classes need two logits."
        )


def check_first_batch(network: keras.Model, x, y=None) -> np.ndarray | None:
    """Refuses data on which attacks and losses would be silently wrong.

    Looks at whole arrays, or at the first batch of a tf.data.Dataset or a keras PyDataset. Generators are not
    touched, since what is read from them is gone; see `checked_generator`.

    Args:
        network: the classifier.
        x: what `fit` got: an array of images or a dataset of (images, labels).
        y: labels, if `x` is an array.

    Returns:
        The logits of the first few images, float64 [n, classes]; None where nothing was looked at.

    Raises:
        HarpError: if images do not fit the network or are outside [0, 1], labels are no class indices of the
            network, or the network returns probabilities instead of logits.
    """
    if isinstance(x, tf.data.Dataset):
        for batch in x.take(1):
            return _check_element(network, batch)
    elif isinstance(x, keras.utils.PyDataset):
        return _check_element(network, x[0])
    elif hasattr(x, "shape") or isinstance(x, (list, tuple, dict)):
        return _check_element(network, (x, y))
    return None


def checked_generator(network: keras.Model, x):
    """What `fit` got; of a generator one of the same batches, the first after the checks of `check_first_batch`."""

    def checked():
        for number, batch in enumerate(x):
            if number == 0:
                _check_element(network, batch)
            yield batch

    return checked() if isinstance(x, types.GeneratorType) else x


def _check_element(network: keras.Model, element) -> np.ndarray:
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(element)
    for what, values in (("images", images), ("labels", labels)):
        if values is None:
            raise HarpError(
                f"There are no {what}. Pass fit(images, labels), or a dataset of (images, labels) or (images, labels, "
                "weights)."
            )
        if not hasattr(values, "shape"):
            raise HarpError(
                f"The {what} must be one array, received a {type(values).__name__}. Make one of it with "
                f"numpy.stack({what})."
            )
    return check_batch(network, np.asarray(images), np.asarray(labels))


def only_class(network: keras.Model, images: np.ndarray, labels: np.ndarray) -> str:
    """A warning if a trained network gives the first images of a batch one and the same class; "" if it does not.

    Args:
        network: the classifier.
        images: [n, ...] in [0, 1].
        labels: class indices [n].
    """
    shown = range(0, min(len(images), _TOLD_APART), _PIECE)
    logits = [network(images[start : start + _PIECE].astype("float32"), training=False) for start in shown]
    answers = np.concatenate([keras.ops.convert_to_numpy(part).argmax(-1) for part in logits])
    if not one_answer(answers, labels[: len(answers)]):
        return ""
    return (
        f"WARNING: the model gives all of the first {len(answers)} images the same class, {answers[0]}. It has learned "
        "nothing, has collapsed, or wants other pixels than those in [0, 1]: if it was trained on pixels from 0 to "
        "255, put keras.layers.Rescaling(255) in front of it."
    )


def check_batch(network: keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The checks of `check_first_batch` on images and labels; the network sees the first few of them.

    Returns:
        The logits of these, float64 [n, classes].
    """
    wanted = tuple(getattr(network, "input_shape", None) or images.shape)[1:]  # not known of a subclassed model
    if len(wanted) != images.ndim - 1 or any(w not in (None, n) for w, n in zip(wanted, images.shape[1:])):
        raise HarpError(
            f"The network takes images of the shape {wanted}, received an array of shape {images.shape} "
            f"whose images have {images.shape[1:]}. The first axis counts images, the last one colours; a tf.data set "
            "has to be batched: .batch(128)."
        )
    require_images(images)
    logits = network(images[:_LOOKED_AT].astype("float32"), training=False)
    if not hasattr(logits, "shape"):
        raise HarpError(
            f"The network must return one tensor of logits, it returns a {type(logits).__name__}. Train a model that "
            "returns the logits alone."
        )
    _check_logits_shape(tuple(logits.shape))
    logits = keras.ops.convert_to_numpy(logits).astype("float64")
    class_indices(labels, len(images), logits.shape[-1])
    if logits.size and (logits >= 0).all() and np.allclose(logits.sum(-1), 1.0, atol=1e-3):
        raise HarpError(
            "The network returns probabilities (a softmax output), and attacks on those see vanishing gradients. "
            "Remove the softmax: the last layer must return logits (activation=None)."
        )
    return logits
