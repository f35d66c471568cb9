"""A plain Keras model -> a dense .tflite file, float32 or computing in int8."""

import keras
import numpy as np
import tensorflow as tf

from harp_tf.deploy.flatbuffer import read_model, write_model
from harp_tf.deploy.kernels import check_plain, match_kernels
from harp_tf.deploy.precision import computing_in_float32
from harp_tf.deploy.quiet import captured_output
from harp_tf.deploy.reshape import fix_reshapes
from harp_tf.types import HarpError


def to_tflite(model: keras.Model, calibration: np.ndarray | None = None) -> bytes:
    """Converts a plain Keras classifier to a dense TFLite file of builtin operators.

    The batch dimension stays open: the file runs on single images as it is, and on batches after
    `resize_tensor_input`. The kernels carry the paths of their Keras variables ("conv1/kernel"), so
    that the file can be compared with a table of rates layer by layer.

    Args:
        model: A built Keras model without layers of harp_tf: images float32 `[batch, ...]` in, logits
          `[batch, classes]` out. Under a mixed policy its weights are float32, and so is all that the file computes.
        calibration: float32 `[n, ...]`, images from which the ranges of all activations are taken: the file then
          computes in int8, with float32 images in and float32 logits out. Default: float32 throughout.

    Returns:
        The bytes of the .tflite file.

    Raises:
        HarpError: If the model still holds layers of harp_tf (strip it first), has several inputs or
          outputs, an output in a dict, a name that TensorFlow does not allow or a fixed batch size, or cannot
          be expressed in TFLite's builtin operators.
    """
    check_plain(model)
    batch = model.inputs[0].shape[0]
    if batch is not None:
        raise HarpError(
            f"Expected an open batch dimension, received a model built for batches of {batch}. "
            "Build it with keras.Input(shape) without batch_size."
        )
    with captured_output() as chatter, computing_in_float32(model):
        try:
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            if calibration is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: ([image[None]] for image in calibration)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            data = converter.convert()
        except Exception as error:  # The converter raises what the failing pass happens to raise.
            lines = f"{error}\n{chatter()}".splitlines()
            reasons = [line for line in lines if "error:" in line] or lines
            raise HarpError(
                "Expected a model of layers that TFLite has builtin operators for; converting "
                f"{model.name!r} failed: {reasons[0][-500:]}"
            ) from error
    file = read_model(data)
    fix_reshapes(file)
    for match in match_kernels(file, model):
        file.subgraphs[0].tensors[match.tensor].name = match.kernel.path.encode()
    return write_model(file)
