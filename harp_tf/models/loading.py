"""A model from what the user names: a builder, a .keras file, or a function of their own."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf

from harp_tf.models import archive
from harp_tf.models.builders import build
from harp_tf.models.exportable import require_exportable
from harp_tf.types import HarpError

_PROBABILITIES = ("softmax", "sigmoid")
_LARGEST = 2**26
"""Values in a tensor for one image; those of a ResNet for ImageNet have less than a million."""


def load_or_build(
    spec: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: float | None = None,
    depth: int | None = None,
    seed: int = 0,
) -> tuple[keras.Model, bool]:
    """Returns the model that `spec` names, checked against the data set.

    Args:
        spec: A name of `names()`; or the path of a `.keras` file, read in Keras' safe mode; or
            `package.module:function`, called as `function(input_shape, num_classes)`.
        input_shape: (height, width, channels) of the data set's images.
        num_classes: Number of the data set's classes.
        width: See `build`; for named models only.
        depth: See `build`; for named models only.
        seed: Seed of the initial kernels; for named models only.

    Returns:
        The model, and whether it was loaded from a file (then it may have been trained already).

    Raises:
        HarpError: If there is no such model, or it does not fit the data, or does not end in logits.
    """
    is_file = spec.endswith(".keras")
    if not is_file and ":" not in spec:
        return build(spec, input_shape, num_classes, width=width, depth=depth, seed=seed), False
    if width is not None or depth is not None:
        raise HarpError(f"Width and depth scale the library's own models; model '{spec}' has its own. Leave them out.")
    model = load(spec) if is_file else _call(spec, input_shape, num_classes)
    _check(model, spec, input_shape, num_classes)
    return model, is_file


def load(path: str | Path) -> keras.Model:
    """Reads a .keras file that is checked first, in Keras' safe mode.

    Nothing out of the file is run, and no other file is read. Classes of the user's own are used where their modules
    have been imported and registered them.

    Args:
        path: The file.

    Returns:
        The model, not compiled.

    Raises:
        HarpError: If there is no such file or it cannot be read; says why.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise HarpError(f"There is no model file '{path}'. Give the path of a .keras file.")
    try:
        with archive.at_most(archive.check(path)):
            return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, zip and HDF5 each raise their own kinds for a file they cannot read.
        raise HarpError(
            f"'{path}' could not be read as a Keras 3 model of standard layers ({_first_line(error)}). Save "
            "it with model.save('name.keras'); Lambda layers are refused; for layers of your own import the module "
            "that registers them first (on the command line: --import_modules=MODULE)."
        ) from error


def import_module(name: str) -> ModuleType:
    """Imports a module of the user's, which registers layers or makes models.

    Args:
        name: package.module, from the current folder or an installed package.

    Returns:
        The module.

    Raises:
        HarpError: If it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as error:
        missing = error.name if isinstance(error, ImportError) else None
        if missing and not f"{name}.".startswith(f"{missing}."):
            raise HarpError(
                f"The module '{name}' could not be imported ({_first_line(error)}). Install what it needs, or mend it."
            ) from error
        raise HarpError(
            f"The module '{name}' was not found ({_first_line(error)}). Expected package.module, importable from the "
            "current folder or an installed package."
        ) from error


def _call(spec: str, input_shape, num_classes: int) -> keras.Model:
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(import_module(module_name), function_name)
    except AttributeError as error:
        raise HarpError(f"Model '{spec}' was not found ({_first_line(error)}). Expected module:function.") from error
    if not callable(function):
        raise HarpError(f"Model '{spec}' is not a function; expected one of (input_shape, num_classes).")
    return function(tuple(input_shape), num_classes)


def _check(model, spec: str, input_shape, num_classes: int) -> None:
    if not isinstance(model, keras.Model):
        raise HarpError(f"Model '{spec}' is a {type(model).__name__}; expected a keras.Model (Keras 3).")
    if not model.built or not _flat(model, "inputs"):
        raise HarpError(f"Model '{spec}' must be a built Sequential or Functional model with one input and one output.")
    require_exportable(model, spec)
    received = tuple(model.inputs[0].shape)
    if received[0] is not None:
        raise HarpError(
            f"Model '{spec}' is built for batches of {received[0]}. Build it with keras.Input(shape) without "
            "batch_size, and load its weights into that."
        )
    expected = (None, *input_shape)
    if len(received) != 4 or any(r not in (None, e) for r, e in zip(received[1:], expected[1:])):
        raise HarpError(
            f"Model '{spec}' reads inputs of shape {received}; the data set has images of shape {expected}. "
            "Choose the data set the model was made for, or another model."
        )
    outputs = tuple(model.outputs[0].shape)
    if outputs != (None, num_classes):
        raise HarpError(
            f"Model '{spec}' returns outputs of shape {outputs}; the data set has {num_classes} classes, so "
            f"(None, {num_classes}) was expected."
        )
    head = _probability_head(model)
    if head or _sums_to_one(model, spec, input_shape):
        raise HarpError(
            f"Model '{spec}' ends in {head or 'a softmax'}: it returns probabilities, and attacks on those "
            "are fooled by vanishing gradients. Return logits: give the last Dense layer activation=None, or "
            "remove the Softmax layer, and save the model again (the weights stay the same)."
        )


def _flat(model: keras.Model, name: str) -> list:
    return keras.tree.flatten(getattr(model, name, None) or [])


def _probability_head(model: keras.Model) -> str | None:
    """Names the softmax or sigmoid that makes the model's output, or returns None."""
    operation = model.outputs[0]._keras_history.operation
    if isinstance(operation, keras.Model):
        return _probability_head(operation) if _flat(operation, "outputs") else None
    kind = type(operation).__name__.lower()
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    for name in _PROBABILITIES:
        if name in (kind, activation):
            return f"a {name} (layer '{operation.name}')"
    return None


def _sums_to_one(model: keras.Model, spec: str, input_shape) -> bool:
    """Tells a softmax that hides inside a layer of the user's own: every row of outputs is a distribution."""
    images = np.random.default_rng(0).random((4, *input_shape), dtype=np.float32)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.constant(images))
    # Traced, and not yet run: a file may state any number, and padding by a million would fill the memory here.
    tensors = [tensor for operation in function.graph.get_operations() for tensor in operation.outputs]
    largest = max(tensor.shape.num_elements() or 0 for tensor in tensors) // len(images)
    if largest > _LARGEST:
        raise HarpError(
            f"Model '{spec}' computes {largest:,} values at once for one image of shape {tuple(input_shape)}; at most "
            f"{_LARGEST:,} are possible. Look for a layer that enlarges the image."
        )
    outputs = function(tf.constant(images)).numpy()
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
