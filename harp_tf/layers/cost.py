"""What the kernels of any Keras model cost: weights, and multiply-adds at its input size."""

import contextlib
import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.models.functional import Functional  # keras.Model(inputs, outputs) makes these; no public name

from harp_tf import compression
from harp_tf.layers.count import prunable_kernels
from harp_tf.layers.model import divide_costs, kernel_sizes, pruning_spec
from harp_tf.layers.pruned import shared_kernels
from harp_tf.layers.rebuild import require_built
from harp_tf.layers.registry import TRANSPOSED
from harp_tf.types import HarpError

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a kernel costs when nothing is removed from it.

    Attributes:
        weights: number of its weights.
        multiply_adds: multiplications by them, each with an addition, for one example; all calls together.
    """

    weights: int
    multiply_adds: int


def layer_costs(model: keras.Model, input_shape: Any = None) -> dict[str, Cost]:
    """Weights and multiply-adds of every kernel that can be pruned, in a plain model or in a pruned one.

    The calls are those of a trace of the model on one example, so it does not matter how the model is made: shared
    layers count every call, and layers inside of others as often as these call them. Convolutions count as if there
    were no borders: every weight works for every output pixel. Products of two activations, as in attention, belong
    to no kernel. A layer of a user's own class is taken to use each weight once for every position of its output
    (all axes but the last).

    Args:
        model: a Keras model with weights.
        input_shape: the shape of one example, without the batch axis, in the nesting in which the model takes its
            inputs; needed if the model leaves it open. Models that name no dtype get float inputs.

    Returns:
        Costs by path, e.g. "conv1/kernel", in the order of the network.

    Raises:
        HarpError: if the input size is open, or the model cannot be called with it.
    """
    require_built(model)
    found = list(prunable_kernels(model))
    unbuilt = [path for path, layer, _ in found if not layer.built]
    if unbuilt:
        raise HarpError(f"Model {model.name!r} has no {', '.join(unbuilt)} yet. Call it on a batch first.")
    kernels = [(path, layer, getattr(layer, kernel.name)) for path, layer, kernel in found]
    inputs = _input_specs(model, input_shape)

    def call(inputs: Any) -> Any:
        # Kernels as they are: selecting masks costs time and changes no shape.
        with shared_kernels({id(v): tf.convert_to_tensor(v) for *_, v in kernels}):
            return model(inputs)

    with _watched({id(layer): layer for _, layer, _ in kernels}.values()) as calls:
        try:
            tf.function(call).get_concrete_function(inputs)
        except (TypeError, ValueError) as error:
            shapes = [tuple(spec.shape[1:]) for spec in keras.tree.flatten(inputs)]
            reason = str(error).strip().partition("\n")[0]
            raise HarpError(
                f"Model {model.name!r} cannot be called with inputs of the shapes {shapes}: "
                f"{reason} Pass the input_shape of one example, without the batch axis."
            ) from error
    uses = {id(layer): 0 for _, layer, _ in kernels}
    for layer, given, made in calls:
        uses[id(layer)] += _uses(layer, given, made)
    sizes = [math.prod(variable.shape) for *_, variable in kernels]
    return {
        path: Cost(size, compression.multiply_adds(size, uses[id(layer)]))
        for (path, layer, _), size in zip(kernels, sizes, strict=True)
    }


_divided_costs: weakref.WeakKeyDictionary[keras.Model, tuple[list[int], int]] = weakref.WeakKeyDictionary()


def kernel_costs(model: keras.Model) -> list[int]:
    """What each pruned kernel costs unpruned, in the unit of the model's spec: weights or multiply-adds.

    A channel space costs what all kernels that read it spend on its channels.

    Args:
        model: a model made by `harp_tf.prune`, with a fixed input size if the budget counts FLOPs.

    Returns:
        One cost per kernel or channel space, in the order of `pruned_kernels`.

    Raises:
        HarpError: if FLOPs are asked for and the input size is open.
    """
    return _divided(model)[0]


def fixed_cost(model: keras.Model) -> int:
    """What the pruned layers spend on channels that are never removed, in the same unit; 0 for single weights."""
    return _divided(model)[1]


def _divided(model: keras.Model) -> tuple[list[int], int]:
    if model not in _divided_costs:  # a trace takes seconds, and the graph of a model does not change
        if pruning_spec(model).budget == "weights":
            costs = kernel_sizes(model)
        else:
            costs = {path: cost.multiply_adds for path, cost in layer_costs(model).items()}
        _divided_costs[model] = divide_costs(model, costs)
    return _divided_costs[model]


def _uses(layer: keras.layers.Layer, given: Shape, made: Shape) -> int:
    """How often a call uses each weight of a layer's kernels, from the shapes of its first input and its output."""
    if None in (*given, *made):
        raise HarpError(
            f"The FLOPs of layer {layer.name!r} depend on the values of its inputs: its shapes are {given} -> {made}. "
            "Use budget='weights'."
        )
    if isinstance(layer, keras.layers.EinsumDense):
        return _uses_in_einsum(layer.equation, given)
    # A transposed convolution uses each weight once per input pixel, all other layers once per output.
    shape = given if isinstance(layer, TRANSPOSED) else made
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    return math.prod((shape[0], *shape[2:]) if channels_first else shape[:-1])


def _uses_in_einsum(equation: str, given: Shape) -> int:
    """The product of the input's dimensions that are none of the kernel's: "abc,cd->abd" uses a weight a * b times."""
    data, kernel = equation.replace(" ", "").partition("->")[0].split(",")
    head, _, tail = data.partition("...")
    letters = [*head, *["..."] * (len(given) - len(head) - len(tail)), *tail]
    return math.prod(length for letter, length in zip(letters, given, strict=True) if letter not in kernel)


@contextlib.contextmanager
def _watched(layers: Collection[keras.layers.Layer]) -> Iterator[list[tuple[keras.layers.Layer, Shape, Shape]]]:
    """Inside this context every call of these layers adds (layer, shape of its first input, of its output)."""
    calls: list[tuple[keras.layers.Layer, Shape, Shape]] = []

    def watching(layer: keras.layers.Layer) -> Callable:
        call = layer.call

        @functools.wraps(call)
        def watched(*args, **kwargs):
            outputs = call(*args, **kwargs)
            first = next(t for t in keras.tree.flatten([args, *kwargs.values()]) if hasattr(t, "shape"))
            calls.append((layer, tuple(first.shape), tuple(keras.tree.flatten(outputs)[0].shape)))
            return outputs

        return watched

    try:
        for layer in layers:
            # Keras has no hook for calls; an attribute of the instance comes before the method of the class.
            layer.call = watching(layer)
        yield calls
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _input_specs(model: keras.Model, input_shape: Any) -> Any:
    """One example as tf.TensorSpecs, in the nesting in which the model takes its inputs."""
    known = None
    if isinstance(model, (keras.Sequential, Functional)):
        known = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        built = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), known)
    else:
        built = (model.get_build_config() or {}).get("input_shape")
    if input_shape is None and built is None:
        raise HarpError(
            f"The input size of model {model.name!r} ({type(model).__name__}) is not known. Pass the shape of one "
            "example, without the batch axis, as input_shape=, or use budget='weights'."
        )
    shapes: list[tuple] = []
    keras.tree.map_shape_structure(shapes.append, built if input_shape is None else input_shape)
    if input_shape is None:
        shapes = [shape[1:] for shape in shapes]
    dtypes = [keras.config.floatx()] * len(shapes) if known is None else [t.dtype for t in keras.tree.flatten(known)]
    if len(shapes) != len(dtypes):
        raise HarpError(
            f"input_shape must hold {len(dtypes)} shapes, one per input of model {model.name!r}, received "
            f"{input_shape!r}."
        )
    if any(None in shape for shape in shapes):
        raise HarpError(
            f"The FLOPs of model {model.name!r} depend on its input size, which is open: "
            f"{[(None, *shape) for shape in shapes]}. Build it with a fixed size or use budget='weights'."
        )
    specs = [tf.TensorSpec([1, *shape], dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    if known is not None:
        return keras.tree.pack_sequence_as(known, specs)
    remaining = iter(specs)
    return keras.tree.map_shape_structure(lambda _: next(remaining), built if input_shape is None else input_shape)
