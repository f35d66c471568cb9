"""What a .tflite file holds: its kernels, their non-zero weights, and its size."""

import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.encoding import decode
from harp_tf.deploy.flatbuffer import (
    STORED_TYPES,
    Source,
    read_bytes,
    read_model,
    tensor_name,
    unpacked_constants,
    weight_tensors,
)
from harp_tf.files import sizes
from harp_tf.types import HarpError

_KERNEL_NAMES = ("kernel", "depthwise_kernel", "pointwise_kernel")


@dataclasses.dataclass(frozen=True)
class KernelCount:
    """One kernel of a .tflite file, counted in the file.

    Attributes:
        name: Name of the tensor; in files of `to_tflite` the path of the Keras variable, "conv1/kernel".
        layer: Path of the Keras layer it belongs to, or None when the name does not tell.
        shape: Shape in TFLite's layout, output channels first (last for depthwise).
        weights: Number of weights.
        nonzero: Number of weights that are not zero.
        sparse: Whether the file stores it sparsely.
    """

    name: str
    layer: str | None
    shape: tuple[int, ...]
    weights: int
    nonzero: int
    sparse: bool


def kernel_nonzeros(source: Source) -> list[KernelCount]:
    """Counts the weights of a .tflite file, dense or sparse.

    Args:
        source: Path or bytes of a .tflite file with float32, float16 or int8 kernels.

    Returns:
        The kernels of convolutions, depthwise, transposed and fully-connected operators in execution
        order; one that several operators share is listed once.

    Raises:
        HarpError: If the file cannot be read, is damaged, or holds kernels of another type.
    """
    model = read_model(source)
    tensors = model.subgraphs[0].tensors
    counts = []
    for weight in weight_tensors(model):
        tensor, kernel = tensors[weight.index], read_kernel(model, weight.index)
        counts.append(
            KernelCount(
                name=tensor_name(tensor),
                layer=_layer_of(tensor_name(tensor)),
                shape=kernel.shape,
                weights=kernel.size,
                nonzero=int(np.count_nonzero(kernel)),
                sparse=tensor.sparsity is not None,
            )
        )
    return counts


def file_sizes(source: Source) -> tuple[int, int]:
    """Bytes of a .tflite file, as it is and compressed by gzip at its usual level, 6.

    Args:
        source: Path or bytes of a .tflite file.

    Returns:
        `(file_bytes, gzip_bytes)`.

    Raises:
        HarpError: If the file cannot be read or is not a TFLite file.
    """
    return sizes(read_bytes(source))


def memory_bytes(source: Source) -> int:
    """What a .tflite file takes in memory once it is loaded: itself, and every kernel that is unpacked from it.

    Args:
        source: Path or bytes of a .tflite file.

    Returns:
        Bytes, without the interpreter and the activations, which all forms of one model share.

    Raises:
        HarpError: If the file cannot be read or is not a TFLite file.
    """
    data = read_bytes(source)
    model = read_model(data)
    restored = [model.subgraphs[0].tensors[index] for index in unpacked_constants(model)]
    return len(data) + sum(int(np.prod(t.shape)) * STORED_TYPES[t.type].itemsize for t in restored)


def read_kernel(model: schema.ModelT, index: int) -> np.ndarray:
    """The values of a constant kernel, unpacked if it is sparse or quantised.

    Args:
        model: A file unpacked by `read_model`.
        index: Index of the constant tensor, from `weight_tensors`.

    Returns:
        The kernel as a dense float32 array in TFLite's layout.

    Raises:
        HarpError: If it is not float32, float16 or int8, or its data is damaged.
    """
    tensor = model.subgraphs[0].tensors[index]
    name, shape = tensor_name(tensor), tuple(int(size) for size in tensor.shape)
    if tensor.type not in STORED_TYPES:
        raise HarpError(f"Expected float32, float16 or int8 weights in {name!r}, received TFLite type {tensor.type}.")
    data = model.buffers[tensor.buffer].data
    try:
        values = data.view(STORED_TYPES[tensor.type])
        values = values.reshape(shape) if tensor.sparsity is None else decode(values, tensor.sparsity, shape)
        if tensor.type != schema.TensorType.INT8:
            return values.astype(np.float32, copy=False)
        parameters = _quantization(model, index)
        along = [-1 if axis == parameters.quantizedDimension else 1 for axis in range(len(shape))]
        zero, scale = (np.reshape(p, along if p.size > 1 else ()) for p in (parameters.zeroPoint, parameters.scale))
        return ((values - zero) * scale).astype(np.float32)
    except (ValueError, AttributeError, StopIteration) as error:
        raise HarpError(f"The weights {name!r} of the TFLite file are damaged: {error}") from error


def _quantization(model: schema.ModelT, index: int) -> schema.QuantizationParametersT:
    """Scales and zero points of an int8 constant; those of a sparse one are at what DENSIFY makes of it."""
    graph = model.subgraphs[0]
    if graph.tensors[index].sparsity is not None:
        reader = next(operator for operator in graph.operators if index in operator.inputs)
        index = int(reader.outputs[0])
    return graph.tensors[index].quantization


def _layer_of(name: str) -> str | None:
    layer, _, kernel = name.rpartition("/")
    return layer if layer and kernel in _KERNEL_NAMES else None
