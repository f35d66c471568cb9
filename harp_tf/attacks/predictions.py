"""The answers of a model on the host."""

from collections.abc import Callable

import numpy as np

from harp_tf.types import HarpError

Predict = Callable[[np.ndarray], np.ndarray]
"""Images float32 [n, ...] -> logits [n, classes], on the host."""


def finite_logits(predict: Predict, images: np.ndarray, name: str) -> np.ndarray:
    """The logits of every image, [n, classes].

    Args:
        predict: the model.
        images: float32 [n, ...].
        name: what the model is called, for the error.

    Raises:
        HarpError: if a logit is NaN or infinite: the largest of such logits would be no answer.
    """
    logits = predict(images)
    broken = int((~np.isfinite(logits).all(axis=-1)).sum())
    if broken:
        raise HarpError(
            f"Expected finite logits of the model {name!r}, received NaN or infinity for {broken} of {len(images)} "
            "images. Check its weights; a float16 network may overflow, then evaluate it in float32."
        )
    return logits


def predicted(predict: Predict, images: np.ndarray, name: str) -> np.ndarray:
    """The predicted class of every image, int [n]; arguments and errors as of `finite_logits`."""
    return finite_logits(predict, images, name).argmax(-1)
