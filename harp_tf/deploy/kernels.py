"""The kernels of a Keras model, and which tensor of a .tflite file each of them became."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from harp_tf.deploy.flatbuffer import WeightTensor, tensor_name, weight_tensors
from harp_tf.deploy.inspect import read_kernel
from harp_tf.models.exportable import require_exportable
from harp_tf.types import HarpError


@dataclasses.dataclass(frozen=True)
class ModelKernel:
    """A kernel of a Keras model.

    Attributes:
        path: Names of the nested models, the layer and the kernel, "block1/conv1/kernel".
        weights: Its values with the axes in TFLite's order: output channels first, last for depthwise.
    """

    path: str
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class KernelMatch:
    """A tensor of a .tflite file and the Keras kernel it was made from.

    Attributes:
        kernel: The Keras kernel.
        tensor: Index of the constant tensor in the file's main graph.
        weights: The values in the file, float32, in the kernel's shape.
    """

    kernel: ModelKernel
    tensor: int
    weights: np.ndarray


def check_plain(model: keras.Model) -> None:
    """Refuses what is not a plain Keras model from images to logits.

    Raises:
        HarpError: If it is no built Sequential or Functional model, harp_tf's layers are still in it, or it is not what
          `require_exportable` wants.
    """
    if not isinstance(model, keras.Model):
        raise HarpError(f"Expected a Keras model, received {type(model).__name__}.")
    if not getattr(model, "inputs", None):
        raise HarpError(
            "Expected a built Sequential or Functional model, received "
            f"{type(model).__name__} {model.name!r} without a known input. Build it with keras.Input."
        )
    for layer in model._flatten_layers():
        if type(layer).__module__.split(".")[0] == "harp_tf":
            raise HarpError(
                f"Expected a plain Keras model, received one with {type(layer).__name__} {layer.name!r}. "
                "Call harp_tf.strip(model) first: it bakes the masks into the kernels."
            )
    require_exportable(model, model.name)


def model_kernels(model: keras.Model) -> list[ModelKernel]:
    """Lists the kernels of Dense, EinsumDense and 1-D and 2-D convolution layers of all kinds.

    Args:
        model: A plain, built Keras model. Nested models are entered; a shared layer counts once.

    Returns:
        The kernels in the order of the network.
    """
    kernels: dict[int, ModelKernel] = {}
    for path, layer in _walk(model, ""):
        for variable, weights in _layer_kernels(layer):
            kernels.setdefault(id(variable), ModelKernel(f"{path}/{variable.name}", weights))
    return list(kernels.values())


def match_kernels(file: schema.ModelT, model: keras.Model) -> list[KernelMatch]:
    """Finds the tensor of a .tflite file that each kernel of the Keras model became.

    The converter scales kernels (it folds batch norms into them), renames them and may order them
    otherwise, but keeps their zeros. A tensor matches a kernel of the same size with zeros in the same
    places; values up to a scale, names, then the order decide among several. More zeros than in the
    model are accepted only where a whole input or output channel was folded to zero, in denormals, and in
    kernels stored as float16 or int8, where small weights round to zero. Equal kernels, as of blurs or of twin
    branches, may be stored once: the tensor then matches one of them.

    Args:
        file: A file unpacked by `read_model`.
        model: The plain Keras model it was made from.

    Returns:
        The matches in the file's execution order. A kernel whose copies were scaled differently has
        several; constants of the file that belong to no kernel have none.

    Raises:
        HarpError: If the file holds no tensor for some kernel that is not all zero; names the kernel.
    """
    kernels = model_kernels(model)
    by_size = collections.defaultdict(list)
    for position, kernel in enumerate(kernels):
        by_size[kernel.weights.size].append(position)
    found = [(weight, read_kernel(file, weight.index), _names(file, weight)) for weight in weight_tensors(file)]
    uses = [0] * len(kernels)
    matches = []
    shared: set[int] = set()
    for weight, values, names in found:
        rounded = file.subgraphs[0].tensors[weight.index].type != schema.TensorType.FLOAT32
        candidates = [p for p in by_size[values.size] if _same_zeros(values, kernels[p].weights, rounded)]
        if candidates:
            best = candidates[0]
            if len(candidates) > 1:
                best = min(
                    candidates,
                    key=lambda p: (
                        not is_scaled_copy(values, kernels[p].weights),
                        not _is_named(kernels[p].path, names),
                        uses[p],
                    ),
                )
            uses[best] += 1
            kernel = kernels[best]
            # Not the values of the file: those may be rounded.
            shared |= {p for p in candidates if is_scaled_copy(kernel.weights, kernels[p].weights)}
            matches.append(KernelMatch(kernel, weight.index, values.reshape(kernel.weights.shape)))
    for position, kernel in enumerate(kernels):
        # What nothing passes through is a constant to the converter, which may compute it and drop the kernel.
        if uses[position] == 0 and position not in shared and np.any(kernel.weights):
            raise HarpError(_missing(kernel, [(values, names) for _, values, names in found]))
    return matches


def is_scaled_copy(file: np.ndarray, model: np.ndarray) -> bool:
    """Whether one kernel is another one times a factor per output or per input channel, up to rounding.

    Args:
        file: The kernel that may be a copy, in TFLite's layout.
        model: The original, with as many weights.

    Returns:
        Whether it is one. Where the original is zero, nothing is compared.
    """
    ratio = np.full(model.shape, np.nan, np.float32)
    np.divide(file.reshape(model.shape), model, out=ratio, where=model != 0)
    for channel_axis in (0, ratio.ndim - 1):
        by_channel = np.moveaxis(ratio, channel_axis, 0).reshape(ratio.shape[channel_axis], -1)
        low = np.nanmin(by_channel, axis=1, initial=np.inf)
        high = np.nanmax(by_channel, axis=1, initial=-np.inf)
        seen = low <= high
        if np.allclose(low[seen], high[seen], rtol=1e-4, atol=1e-7):
            return True
    return False


def _walk(model: keras.Model, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if isinstance(layer, keras.Model):
            yield from _walk(layer, f"{path}/")
        else:
            yield path, layer
            for inner in layer._flatten_layers(include_self=False):  # Of wrappers and attention.
                yield f"{path}/{inner.name}", inner


def _layer_kernels(layer: keras.layers.Layer) -> list[tuple[keras.Variable, np.ndarray]]:
    if isinstance(layer, layers.Dense):
        return [(layer.kernel, _numpy(layer.kernel).T)]
    if isinstance(layer, layers.EinsumDense):
        return [(layer.kernel, _einsum_matrix(layer))]
    if isinstance(layer, (layers.Conv1D, layers.Conv2D)):
        return [(layer.kernel, np.moveaxis(_numpy(layer.kernel), -1, 0))]
    if isinstance(layer, (layers.Conv1DTranspose, layers.Conv2DTranspose)):
        return [(layer.kernel, np.moveaxis(_numpy(layer.kernel), -2, 0))]
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return [(layer.kernel, _merge_last_axes(layer.kernel))]
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        return [
            (layer.depthwise_kernel, _merge_last_axes(layer.depthwise_kernel)),
            (layer.pointwise_kernel, np.moveaxis(_numpy(layer.pointwise_kernel), -1, 0)),
        ]
    return []


def _numpy(variable: keras.Variable) -> np.ndarray:
    return variable.numpy().astype(np.float32, copy=False)


def _merge_last_axes(variable: keras.Variable) -> np.ndarray:
    kernel = _numpy(variable)
    return kernel.reshape(*kernel.shape[:-2], -1)


def _einsum_matrix(layer: layers.EinsumDense) -> np.ndarray:
    inputs, kernel, outputs = re.split(",|->", layer.equation.replace(" ", ""))
    contracted = [axis for axis, label in enumerate(kernel) if label in inputs and label not in outputs]
    free = [axis for axis in range(len(kernel)) if axis not in contracted]
    values = _numpy(layer.kernel).transpose(free + contracted)
    return values.reshape(int(np.prod(values.shape[: len(free)])), -1)


def _same_zeros(file: np.ndarray, model: np.ndarray, rounded: bool) -> bool:
    file = file.reshape(model.shape)
    kept = file != 0
    if np.any(kept & (model == 0)):
        return False
    if rounded:
        return True
    # Denormal weights may underflow when they are scaled.
    wanted = np.abs(model) >= np.finfo(np.float32).tiny
    # A batch norm with gamma 0 makes a channel of the kernel zero: an output channel of the layer before
    # it, an input channel of a Dense after it.
    first = kept.any(axis=tuple(range(1, kept.ndim)), keepdims=True)
    last = kept.any(axis=tuple(range(kept.ndim - 1)), keepdims=True)
    return not np.any(wanted & ~kept & first & last)


def _names(file: schema.ModelT, weight: WeightTensor) -> list[list[str]]:
    """What the converter calls the kernel and its results, as lists of path components."""
    tensors = file.subgraphs[0].tensors
    indices = [weight.index, *(operator.outputs[0] for operator in weight.operators)]
    return [part.split("/") for index in indices for part in tensor_name(tensors[index]).split(";")]


def _is_named(path: str, names: Sequence[list[str]]) -> bool:
    """Whether one of the names leads through the layer of the variable.

    TensorFlow appends "_1", "_2", ... to names of scopes it has seen before.
    """
    layer = [re.compile(re.escape(part) + r"(_\d+)?") for part in path.split("/")[:-1]]
    return any(
        all(part.fullmatch(component) for part, component in zip(layer, name[start:], strict=False))
        for name in names
        for start in range(len(name) - len(layer) + 1)
    )


def _missing(kernel: ModelKernel, found: Sequence[tuple[np.ndarray, list[list[str]]]]) -> str:
    nonzero = np.count_nonzero(kernel.weights)
    same_size = [(values, names) for values, names in found if values.size == kernel.weights.size]
    named = [(values, names) for values, names in same_size if _is_named(kernel.path, names)]
    message = (
        f"Expected the {kernel.weights.size} weights of {kernel.path!r} in the TFLite file with their "
        f"{nonzero} non-zeros in place; received "
    )
    if not same_size:
        return message + "no weights of that size. A layer that changes its kernel cannot be exported."
    values, names = (named or same_size)[0]
    return message + f"{np.count_nonzero(values)} non-zeros in {'/'.join(names[0])!r}, placed otherwise."
