"""Smaller numbers: the float32 kernels of a .tflite file stored as float16 or int8.

Only the storage changes. A DEQUANTIZE operator in front of each kernel restores float32 when the interpreter is
set up, and the network computes in float32 as before. TFLite's own dynamic-range files compute in int8 instead,
which is where sparse ones go wrong: convolutions fail to load, fully-connected layers give wrong logits.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.flatbuffer import (
    Source,
    WeightTensor,
    add_buffer,
    add_tensor,
    kernel_readers,
    new_operator,
    operator_name,
    read_model,
    redirect,
    weight_tensors,
    write_model,
)
from harp_tf.types import require_choice

WEIGHT_TYPES = ("float16", "int8_weights")

# Below so many weights the tables of the extra operator cost more than the numbers save.
_SMALLEST = 256
_INT8_LARGEST = 127
# What a scale and its zero point take in the file.
_SCALE_BYTES = 12


def quantize_weights(source: Source, weight_type: str) -> bytes:
    """Stores the kernels of a dense float32 .tflite file in fewer bits.

    Args:
        source: Path or bytes of a .tflite file with dense float32 kernels.
        weight_type: "float16", or "int8_weights": symmetric int8 with one scale per output channel, and float16
            where so few weights are left that the scales would take more. Zeros stay zeros.

    Returns:
        The bytes of the smaller file; input, output and arithmetic stay float32.

    Raises:
        HarpError: If the file cannot be read, or the type is another one.
    """
    require_choice("weight_type", weight_type, WEIGHT_TYPES)
    model = read_model(source)
    graph = model.subgraphs[0]
    operators = []
    for weight in weight_tensors(model):
        tensor = graph.tensors[weight.index]
        data = model.buffers[tensor.buffer].data
        readers = kernel_readers(model, weight)
        if not readers or tensor.type != schema.TensorType.FLOAT32 or data.nbytes // 4 < _SMALLEST:
            continue
        values = data.view(np.float32).reshape(tuple(tensor.shape))
        axis = _output_axis(model, weight)
        if weight_type == "float16" or np.count_nonzero(values) <= _SCALE_BYTES * values.shape[axis]:
            limit = np.finfo(np.float16).max
            stored, quantization = np.clip(values, -limit, limit).astype(np.float16), None
            tensor.type = schema.TensorType.FLOAT16
        else:
            stored, quantization = _int8(values, axis)
            tensor.type = schema.TensorType.INT8
        tensor.buffer, tensor.quantization = add_buffer(model, stored), quantization
        restored = add_tensor(model, weight.index, "float32", shape=tensor.shape, type=schema.TensorType.FLOAT32)
        operators.append(
            new_operator(
                model, schema.BuiltinOperator.DEQUANTIZE, [weight.index], restored, schema.DequantizeOptionsT()
            )
        )
        redirect(readers, weight.index, restored)
    graph.operators[:0] = operators
    return write_model(model)


def _int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, schema.QuantizationParametersT]:
    """Rounds to int8 with one scale per index of `axis`."""
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / _INT8_LARGEST
    stored = np.clip(np.rint(values / scale), -_INT8_LARGEST, _INT8_LARGEST).astype(np.int8)
    parameters = schema.QuantizationParametersT(
        scale=scale.reshape(-1), zeroPoint=np.zeros(scale.size, np.int64), quantizedDimension=axis
    )
    return stored, parameters


def _output_axis(model: schema.ModelT, weight: WeightTensor) -> int:
    depthwise = operator_name(model, weight.operators[0]) == "DEPTHWISE_CONV_2D"
    return len(model.subgraphs[0].tensors[weight.index].shape) - 1 if depthwise else 0
