"""Reading and writing a .tflite file as Python objects, and finding the weights in its graph."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.types import HarpError

Source = str | os.PathLike | bytes

_IDENTIFIER = b"TFL3"

# Operators whose second input is a kernel.
_WEIGHT_SLOT = 1
_WEIGHT_OPERATORS = frozenset(
    {
        schema.BuiltinOperator.CONV_2D,
        schema.BuiltinOperator.DEPTHWISE_CONV_2D,
        schema.BuiltinOperator.FULLY_CONNECTED,
        schema.BuiltinOperator.TRANSPOSE_CONV,
    }
)
STORED_TYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.INT8: np.dtype(np.int8),
}
"""The element types in which kernels are stored, by TFLite's number for them."""

# Operators that restore a stored kernel before the network runs.
_UNPACKING = frozenset({schema.BuiltinOperator.DENSIFY, schema.BuiltinOperator.DEQUANTIZE})
_OPERATOR_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


@dataclasses.dataclass(frozen=True)
class WeightTensor:
    """A constant kernel in the main graph of a .tflite file.

    Attributes:
        index: Index of the constant tensor. For a sparse or quantised kernel, the one in front of DENSIFY and
            DEQUANTIZE.
        operators: The operators that read it as their kernel, in execution order.
    """

    index: int
    operators: tuple[schema.OperatorT, ...]


def read_bytes(source: Source) -> bytes:
    """Returns the bytes of a .tflite file given by path or as bytes.

    Raises:
        HarpError: If the file cannot be read or is not a TFLite file.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "the given bytes"
    else:
        name = f"{os.fspath(source)!r}"
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            message = f"Expected a readable .tflite file, received {name}: {error.strerror}."
            raise HarpError(message) from error
    if data[4:8] != _IDENTIFIER:
        raise HarpError(
            f"Expected a TFLite file (identifier {_IDENTIFIER.decode()} at byte 4), received {name} of "
            f"{len(data)} bytes without it. Export the model again."
        )
    return data


def read_model(source: Source) -> schema.ModelT:
    """Unpacks a .tflite file; its arrays are read-only views of the file's bytes.

    Args:
        source: Path of a .tflite file, or its bytes.

    Returns:
        The file as the mutable objects of the TFLite schema.

    Raises:
        HarpError: If the file cannot be read, is not a TFLite file, or is damaged.
    """
    data = read_bytes(source)
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
        intact = _indices_in_range(model)
    except Exception as error:  # A damaged flatbuffer raises whatever its garbage leads to.
        raise HarpError(f"The TFLite file is damaged, export it again ({error}).") from error
    if not intact:
        raise HarpError("The TFLite file is damaged, export it again (its graph refers to what is not there).")
    return model


def write_model(model: schema.ModelT) -> bytes:
    """Packs a model into the bytes of a .tflite file, without the data that nothing in it refers to any more."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used.update(metadata.buffer for metadata in model.metadata or [])
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    builder = _AlignedBuilder(1024 + sum(b.data.nbytes for b in model.buffers if b.data is not None))
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    """Aligns the buffers of tensors to 16 bytes.

    The schema asks for it (`force_align: 16`) and kernels rely on it, but the generated Python
    writer leaves it out.
    """

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype == np.uint8:
            self.Prep(16, x.nbytes)
        return super().CreateNumpyVector(x)


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Name of an operator, such as "CONV_2D"; a custom operator keeps its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode is not None:
        return code.customCode.decode(errors="replace")
    return _OPERATOR_NAMES.get(_builtin_code(code), "unknown")


def tensor_name(tensor: schema.TensorT) -> str:
    """Name of a tensor as text."""
    return (tensor.name or b"").decode(errors="replace")


def weight_tensors(model: schema.ModelT) -> list[WeightTensor]:
    """Finds the kernels of convolutions, depthwise, transposed and fully-connected operators.

    A kernel that several operators share is listed once, where it is used first. Kernels that are
    computed at run time (other than by DENSIFY and DEQUANTIZE) are no constants and are left out.

    Args:
        model: A file unpacked by `read_model`.

    Returns:
        The constant kernels of the main graph in execution order.
    """
    graph = model.subgraphs[0]
    unpacked = unpacked_constants(model)
    users: dict[int, list[schema.OperatorT]] = {}
    for operator in graph.operators:
        if _builtin_code(model.operatorCodes[operator.opcodeIndex]) in _WEIGHT_OPERATORS:
            index = int(operator.inputs[_WEIGHT_SLOT])
            while index in unpacked:
                index = unpacked[index]
            if model.buffers[graph.tensors[index].buffer].data is not None:
                users.setdefault(index, []).append(operator)
    return [WeightTensor(index, tuple(operators)) for index, operators in users.items()]


def unpacked_constants(model: schema.ModelT) -> dict[int, int]:
    """The tensors that DENSIFY and DEQUANTIZE restore from constants before the network runs.

    Args:
        model: A file unpacked by `read_model`.

    Returns:
        Index of each restored tensor -> index of the tensor it is restored from, in execution order.
    """
    graph = model.subgraphs[0]
    restored: dict[int, int] = {}
    for operator in graph.operators:
        if _builtin_code(model.operatorCodes[operator.opcodeIndex]) in _UNPACKING:
            source = int(operator.inputs[0])
            if source in restored or model.buffers[graph.tensors[source].buffer].data is not None:
                restored[int(operator.outputs[0])] = source
    return restored


def int_constant(model: schema.ModelT, index: int) -> np.ndarray | None:
    """The data of a constant tensor of the main graph as int32 numbers; None if there are none."""
    data = model.buffers[model.subgraphs[0].tensors[index].buffer].data
    return None if data is None or data.size % 4 else data.view(np.int32)


def is_global_average(model: schema.ModelT, operator: schema.OperatorT) -> bool:
    """Whether an operator averages images, of four axes, over height and width."""
    if operator_name(model, operator) != "MEAN":
        return False
    axes = int_constant(model, int(operator.inputs[1]))
    return axes is not None and sorted(axes % 4) == [1, 2]


def kernel_readers(model: schema.ModelT, weight: WeightTensor) -> list[schema.OperatorT]:
    """The operators that read a dense constant kernel directly: its users, or the DEQUANTIZE in front of them.

    Returns:
        Those operators; none if the constant is sparse, or somebody reads it as something else than a kernel and
        it must stay as it is.
    """
    graph = model.subgraphs[0]
    readers = [operator for operator in graph.operators if np.any(operator.inputs == weight.index)]
    as_kernel = all(
        _builtin_code(model.operatorCodes[reader.opcodeIndex]) == schema.BuiltinOperator.DEQUANTIZE
        or (
            any(reader is user for user in weight.operators)
            and list(np.flatnonzero(reader.inputs == weight.index)) == [_WEIGHT_SLOT]
        )
        for reader in readers
    )
    free = graph.tensors[weight.index].sparsity is None and weight.index not in graph.outputs
    return readers if as_kernel and free else []


def redirect(readers: Sequence[schema.OperatorT], old: int, new: int) -> None:
    """Makes operators read tensor `new` where they read tensor `old`."""
    for reader in readers:
        reader.inputs = np.where(reader.inputs == old, new, reader.inputs).astype(np.int32)


def add_tensor(model: schema.ModelT, like: int, suffix: str, **changes: object) -> int:
    """Appends a tensor to the main graph.

    Args:
        model: The model to change.
        like: Index of the tensor whose name and element type it takes over.
        suffix: Appended to that name.
        **changes: The fields of `schema.TensorT` it has besides, such as `shape`.

    Returns:
        Its index. Without a `buffer` among the changes it is computed at run time.
    """
    tensors = model.subgraphs[0].tensors
    name = f"{tensor_name(tensors[like])}/{suffix}".encode()
    tensors.append(schema.TensorT(**{"name": name, "type": tensors[like].type, "hasRank": True, **changes}))
    return len(tensors) - 1


def add_buffer(model: schema.ModelT, data: np.ndarray) -> int:
    """Appends the data of a constant tensor and returns the index of its buffer."""
    model.buffers.append(schema.BufferT(data=np.ascontiguousarray(data).reshape(-1).view(np.uint8)))
    return len(model.buffers) - 1


def new_operator(
    model: schema.ModelT, code: int, inputs: Sequence[int], output: int, options: object
) -> schema.OperatorT:
    """Makes an operator, not yet placed in the graph.

    Args:
        model: The model that will hold it; learns the operator's code if it is new.
        code: One of `schema.BuiltinOperator`.
        inputs: Indices of its inputs in the main graph.
        output: Index of its only output.
        options: Its options, such as `schema.DensifyOptionsT()`.

    Returns:
        The operator.
    """
    codes = [_builtin_code(operator_code) for operator_code in model.operatorCodes]
    if code not in codes:
        codes.append(code)
        model.operatorCodes.append(schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1))
    return schema.OperatorT(
        opcodeIndex=codes.index(code),
        inputs=np.array(inputs, np.int32),
        outputs=np.array([output], np.int32),
        builtinOptionsType=getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T")),
        builtinOptions=options,
    )


def _indices_in_range(model: schema.ModelT) -> bool:
    tensors, operators = model.subgraphs[0].tensors, model.subgraphs[0].operators
    return all(0 <= tensor.buffer < len(model.buffers) for tensor in tensors) and all(
        0 <= operator.opcodeIndex < len(model.operatorCodes)
        and all(-1 <= index < len(tensors) for index in (*operator.inputs, *operator.outputs))
        for operator in operators
    )


def _builtin_code(code: schema.OperatorCodeT) -> int:
    # Codes below 127 live in an older one-byte field, in old files only there.
    return max(code.builtinCode, code.deprecatedBuiltinCode)
