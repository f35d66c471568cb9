"""The one call that turns a stripped Keras model into a checked .tflite file on disk."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harp_tf.deploy.arm_safety import prevent_partial_sparse
from harp_tf.deploy.convert import to_tflite
from harp_tf.deploy.inspect import KernelCount, file_sizes
from harp_tf.deploy.kernels import check_plain
from harp_tf.deploy.metadata import add_metadata
from harp_tf.deploy.quantize import WEIGHT_TYPES, quantize_weights
from harp_tf.deploy.sparse import sparsify
from harp_tf.deploy.verify import verify
from harp_tf.files import write_atomically
from harp_tf.inputs import require_images
from harp_tf.types import HarpError, require_choice

QUANTIZATIONS = (*WEIGHT_TYPES, "int8")

_CALIBRATION_IMAGES = 256
_CHECK_IMAGES = 8
_CHECK_SIZE = 32  # Height and width of the check images where the model leaves them open.


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        file_bytes: Its size.
        gzip_bytes: Its size compressed by gzip at its usual level, 6.
        parameters: Weights in the kernels of the file, biases not counted.
        nonzero: Those that are not zero, counted in the file.
        kernels: The kernels one by one, in execution order.
        max_logit_difference: Largest absolute difference to a Keras logit on the check images.
        quantize: How it was quantised, or None.
    """

    path: Path
    file_bytes: int
    gzip_bytes: int
    parameters: int
    nonzero: int
    kernels: tuple[KernelCount, ...]
    max_logit_difference: float
    quantize: str | None = None


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    sparse: bool = False,
    quantize: str | None = None,
    calibration: np.ndarray | tf.data.Dataset | None = None,
    check_images: np.ndarray | None = None,
) -> ExportReport:
    """Converts a plain Keras model, checks the result against it and writes it as a .tflite file.

    The file appears whole or not at all, and only when every check of `verify` passed.

    Args:
        model: A plain (stripped) Keras classifier with an open batch dimension.
        path: Where to write; an existing file is replaced. Its folder must exist.
        sparse: Whether to store kernels sparsely where that is smaller.
        quantize: "float16" and "int8_weights" store the kernels in fewer bits and compute in float32; "int8" computes
          in int8 and needs `calibration`. Default: float32.
        calibration: for "int8", training images float32 `[n, ...]` in [0, 1], or a tf.data.Dataset of batches of
          images or of (images, labels); up to 256 are used.
        check_images: float32 `[n, ...]` on which file and model must agree. Default: 8 images of uniform
          noise in [0, 1], always the same.

    Returns:
        Sizes and counts of the written file.

    Raises:
        HarpError: If the model is not plain or cannot be converted, images are outside [0, 1], the file does not pass,
          or it cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise HarpError(f"Expected to write into an existing folder, received {str(path)!r}. Create its folder.")
    if quantize is not None:
        require_choice("quantize", quantize, QUANTIZATIONS)
    if (quantize == "int8") != (calibration is not None):
        raise HarpError(
            f"quantize='int8' needs calibration images, other kinds need none; received quantize={quantize!r} "
            f"{'with' if calibration is not None else 'without'} calibration. Pass training images, calibration=train."
        )
    check_plain(model)
    if check_images is None:
        shape = [_CHECK_SIZE if size is None else size for size in model.inputs[0].shape[1:]]
        check_images = np.random.default_rng(0).random((_CHECK_IMAGES, *shape), np.float32)
    require_images(np.asarray(check_images))
    converted = to_tflite(model, None if calibration is None else calibration_images(calibration))
    return write_stored(converted, model, path, sparse, quantize, check_images)


def write_stored(
    converted: bytes,
    model: keras.Model,
    path: Path,
    sparse: bool,
    quantize: str | None,
    check_images: np.ndarray,
    class_names: Sequence[str] = (),
) -> ExportReport:
    """Gives a converted model its form, checks it and writes it; arguments and result as in `export_tflite`.

    Args:
        converted: the dense file made by `to_tflite`, with calibration images if `quantize` is "int8".
        model: the Keras model that it was made from.
        path: where to write.
        sparse: whether to store kernels sparsely where that is smaller.
        quantize: the numbers that the kernels are stored in.
        check_images: on which file and model must agree.
        class_names: one per class, for a file that describes itself as TFLite metadata.

    Returns:
        Sizes and counts of the written file.

    Raises:
        HarpError: If the file does not pass, or it cannot be written.
    """
    data = quantize_weights(converted, quantize) if quantize in WEIGHT_TYPES else converted
    if sparse:
        data = prevent_partial_sparse(sparsify(data))
    if class_names:
        data = add_metadata(data, class_names)
    verification = verify(data, model, check_images, quantize=quantize)
    write_atomically(path, data)
    file_bytes, gzip_bytes = file_sizes(data)
    return ExportReport(
        path=path,
        file_bytes=file_bytes,
        gzip_bytes=gzip_bytes,
        parameters=sum(kernel.weights for kernel in verification.kernels),
        nonzero=sum(kernel.nonzero for kernel in verification.kernels),
        kernels=verification.kernels,
        max_logit_difference=verification.max_logit_difference,
        quantize=quantize,
    )


def calibration_images(calibration: np.ndarray | tf.data.Dataset) -> np.ndarray:
    """The first 256 images of an array, or of a dataset of batches of images or of (images, labels)."""
    chosen = _first_images(calibration)[:_CALIBRATION_IMAGES]
    require_images(chosen)
    return chosen


def _first_images(calibration: np.ndarray | tf.data.Dataset) -> np.ndarray:
    """As many images as are used for calibration, or more."""
    if isinstance(calibration, (list, tuple)):  # of batches, it would become an array with one dimension too many
        raise HarpError(
            f"Expected calibration images as an array or a tf.data.Dataset, received a {type(calibration).__name__}."
        )
    if not isinstance(calibration, tf.data.Dataset):
        return np.asarray(calibration, np.float32)
    batches: list[np.ndarray] = []
    for element in calibration:
        images = element[0] if isinstance(element, tuple) else element
        batches.append(np.asarray(images, np.float32))
        if sum(len(batch) for batch in batches) >= _CALIBRATION_IMAGES:
            break
    if not batches:
        raise HarpError("Expected calibration images, received an empty dataset. Pass the training split.")
    return np.concatenate(batches)
