"""Checks that a .tflite file is the Keras model it claims to be."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from harp_tf.deploy.flatbuffer import Source, operator_name, read_bytes, read_model
from harp_tf.deploy.inspect import KernelCount, kernel_nonzeros
from harp_tf.deploy.kernels import KernelMatch, check_plain, is_scaled_copy, match_kernels
from harp_tf.deploy.precision import computing_in_float32
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.types import HarpError

_KERAS_BATCH = 64

# Rounded weights move the logits: how far, as root mean square over their standard deviation, before something
# else than rounding must be at work. A file with one broken kernel is usually beyond 1.
_ROUNDING = {"float16": 0.02, "int8_weights": 0.15, "int8": 0.25}


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was found in a file that passed.

    Attributes:
        kernels: The kernels of the file with their non-zeros, in execution order.
        folded_weights: Weights that are non-zero in the Keras model and zero in the file, because a batch
          norm with gamma 0 was folded into them or they were denormal; 0 in nearly every model.
        max_logit_difference: Largest absolute difference to the Keras logits over all runs.
        allowed_difference: The difference that would have been accepted; of a quantised file, `relative_difference`
          counts instead.
        relative_difference: Root mean square of the differences over the standard deviation of the logits.
    """

    kernels: tuple[KernelCount, ...]
    folded_weights: int
    max_logit_difference: float
    allowed_difference: float
    relative_difference: float


def verify(
    flatbuffer: Source,
    model: keras.Model,
    images: np.ndarray,
    tolerance: float = 1e-4,
    quantize: str | None = None,
) -> Verification:
    """Compares a .tflite file with the plain Keras model it was made from.

    The file must consist of builtin operators, hold every kernel of the model with its zeros in place,
    load under XNNPACK and under TFLite's plain builtin kernels, and give the Keras logits there, for
    the batch and for a single image.

    Args:
        flatbuffer: Path or bytes of a .tflite file, dense or sparse.
        model: The plain Keras model.
        images: float32 `[n, ...]`, n >= 1, inputs to compare the logits on.
        tolerance: Largest absolute difference of a logit. It grows with the standard deviation of the
          Keras logits where that is above 1, since float32 rounding grows with them.
        quantize: How the file was quantised: "float16", "int8_weights" or "int8". The logits of such a file may
          differ by what rounding of that kind explains, instead of by `tolerance`.

    Returns:
        What was found.

    Raises:
        HarpError: If a check fails; names the operator, kernel or runtime that failed.
    """
    check_plain(model)
    data = read_bytes(flatbuffer)
    file = read_model(data)
    for operator in file.subgraphs[0].operators:
        if file.operatorCodes[operator.opcodeIndex].customCode is not None:
            raise HarpError(
                f"Expected builtin TFLite operators only, received {operator_name(file, operator)!r}, which "
                "plain runtimes on phones do not have. Replace the layer that needs it."
            )
    matches = match_kernels(file, model)
    wanted = keras_logits(model, images)
    difference = relative = 0.0
    for xnnpack in (True, False):
        classifier = TFLiteClassifier(data, xnnpack=xnnpack)
        for count in sorted({1, len(images)}):
            logits = classifier.logits(images[:count])
            runtime = "XNNPACK" if xnnpack else "the builtin kernels"
            try:
                worst, typical = compare_logits(logits, wanted[:count], quantize, tolerance, float(np.std(wanted)))
            except HarpError as error:
                raise HarpError(f"{error} It ran under {runtime}. {_suspects(matches, quantize)}") from error
            difference, relative = max(difference, worst), max(relative, typical)
    return Verification(
        kernels=tuple(kernel_nonzeros(data)),
        folded_weights=sum(
            int(np.count_nonzero(match.kernel.weights) - np.count_nonzero(match.weights)) for match in matches
        ),
        max_logit_difference=difference,
        allowed_difference=tolerance * max(1.0, float(np.std(wanted))),
        relative_difference=relative,
    )


def compare_logits(
    found: np.ndarray, wanted: np.ndarray, quantize: str | None, tolerance: float = 1e-4, spread: float | None = None
) -> tuple[float, float]:
    """Compares the logits of a file with those of the Keras model.

    Args:
        found: float32 `[n, classes]`, of the file.
        wanted: likewise, of the Keras model.
        quantize: How the file was quantised, as for `verify`.
        tolerance: As for `verify`.
        spread: Standard deviation of the Keras logits; default: of `wanted`.

    Returns:
        The largest absolute difference, and the root mean square of the differences over `spread`.

    Raises:
        HarpError: If they differ by more than rounding explains.
    """
    spread = float(np.std(wanted)) if spread is None else spread
    allowed = tolerance * max(1.0, spread)
    errors = found - wanted
    worst = float(np.max(np.abs(errors)))
    typical = float(np.sqrt(np.mean(np.square(errors)))) / max(spread, 1e-30)
    # `not <=`: NaN fails too.
    if not (worst <= allowed if quantize is None else typical <= _ROUNDING[quantize]):
        wish = f"within {allowed:.3g}" if quantize is None else f"within {_ROUNDING[quantize]:.0%} (rms)"
        raise HarpError(
            f"Expected logits {wish} of the Keras model's, received a difference of {worst:.3g} at most, "
            f"{typical:.1%} of their standard deviation (rms), on {len(found)} image(s)."
        )
    return worst, typical


def keras_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The logits that a file must have: those of its Keras model, computed in float32 on the CPU.

    Args:
        model: The plain Keras model.
        images: float32 `[n, ...]`, n >= 1.

    Raises:
        HarpError: If the images are no inputs of the model, or a logit is not finite.
    """
    images = np.asarray(images, np.float32)
    wanted = model.inputs[0].shape[1:]
    fits = images.ndim == 1 + len(wanted) and all(
        size in (None, given) for size, given in zip(wanted, images.shape[1:], strict=True)
    )
    if not fits or len(images) == 0:
        raise HarpError(f"Expected images of shape [n >= 1, *{list(wanted)}], received {list(images.shape)}.")
    # As the file computes them, and by default some GPUs multiply float32 with the precision of ten bits.
    with computing_in_float32(model), tf.device("CPU:0"):
        logits = np.concatenate(
            [
                keras.ops.convert_to_numpy(model(images[start : start + _KERAS_BATCH], training=False))
                for start in range(0, len(images), _KERAS_BATCH)
            ]
        )
    if not np.all(np.isfinite(logits)):
        raise HarpError("Expected finite Keras logits, received NaN or infinity. Check the model's weights.")
    return logits


def _suspects(matches: list[KernelMatch], quantize: str | None) -> str:
    if quantize is not None:
        return "Try images like those of the training as check_images and calibration, or quantize='float16'."
    names = [match.kernel.path for match in matches if not is_scaled_copy(match.weights, match.kernel.weights)]
    if names:
        return f"Kernels of the file that differ from the Keras model's: {', '.join(names)}."
    return "All kernels equal the Keras model's up to a scale per channel: look at the other layers."
