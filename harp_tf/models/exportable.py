"""What a model must be so that a .tflite file can be made of it, to be known before it is trained for hours."""

import re

import keras

from harp_tf.types import HarpError

_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*")
"""What TensorFlow allows for layers, but for the slashes, which Keras or the converter do not."""

_WEIGHT = re.compile(r"[A-Za-z0-9_.>/-]+")
"""And for weights, behind the name of their layer."""


def require_exportable(model: keras.Model, name: str) -> None:
    """Refuses a built model whose form or names the TFLite converter does not take.

    Args:
        model: a built model whose inputs and outputs are known.
        name: what to call it.

    Raises:
        HarpError: if it has not one input and one output, the latter a plain tensor; or if TensorFlow does not allow
            the name of a layer or weight.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise HarpError(
            f"Model '{name}' must have one input and one output; received {len(model.inputs)} and "
            f"{len(model.outputs)}. Take the part from images to logits: keras.Model(images, logits)."
        )
    output = model.compute_output_spec(model.inputs[0])  # a Sequential has no `output`
    if isinstance(output, (list, tuple)):  # of one, which Keras opens where the model is called
        (output,) = output
    if not isinstance(output, keras.KerasTensor):
        raise HarpError(
            f"Model '{name}' must return its logits as a tensor, received one in a {type(output).__name__}. Make "
            "it with keras.Model(images, logits), or keras.Model(model.inputs[0], model.outputs[0]) of this one."
        )
    for layer in model._flatten_layers():  # Keras has no public list of all layers, nested ones included
        if not _NAME.fullmatch(layer.name):
            raise HarpError(
                f"Model '{name}' holds {type(layer).__name__} '{layer.name}', which TensorFlow does not allow: "
                "no .tflite file could be made. Give it a name=... of the letters A to Z and a to z, digits and '_', "
                "'-' and '.', which begins with a letter or digit."
            )
    for weight in model.weights:
        if not _WEIGHT.fullmatch(weight.name):
            raise HarpError(
                f"Model '{name}' holds the weight '{weight.path}', a name that TensorFlow does not allow: no .tflite "
                "file could be made. Give it a name=... in add_weight() of the letters A to Z and a to z, digits and "
                "'_', '-' and '.'."
            )
