"""Small files: zeros in the kernels of a dense .tflite file are no longer stored.

The converter's own sparse encoding (`EXPERIMENTAL_SPARSITY`) is not used: with other options than plain
float32 it writes files that give NaN, fail to load or are silently wrong. Here a finished dense file is
rewritten instead: a kernel becomes a sparse constant and a DENSIFY operator that unpacks it when the
interpreter is set up. Size shrinks; latency and memory stay those of the dense file. Only fully-connected float32
layers with very few weights left are computed from their non-zeros, see `sparse_dense`.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.encoding import encode, encoded_bytes
from harp_tf.deploy.flatbuffer import (
    STORED_TYPES,
    Source,
    WeightTensor,
    add_buffer,
    add_tensor,
    is_global_average,
    kernel_readers,
    new_operator,
    operator_name,
    read_bytes,
    read_model,
    redirect,
    weight_tensors,
    write_model,
)
from harp_tf.deploy.runtime import tensor_shapes
from harp_tf.deploy.sparse_dense import compute_sparse, direct_encoding

# Bytes that the tables of a sparse tensor, its DENSIFY operator and its output tensor take at most.
_TABLE_BYTES = 512


def sparsify(source: Source) -> bytes:
    """Stores the kernels of a dense .tflite file sparsely where that is smaller.

    Kernels of convolutions, depthwise and transposed convolutions and fully-connected operators are
    considered, each on its own; all others, and what would not shrink, stay as they are. The values
    are unchanged, so the logits are too. Of files that compute in int8 (static quantisation) only the
    kernels of plain convolutions become sparse: interpreters refuse sparse int8 fully-connected layers.
    Transposed convolutions become sparse in float32 only.

    Global average pooling that keeps its dimensions becomes pooling without them and a reshape: on ARM,
    not on x86, XNNPACK fails to set up sparse files of MobileNet-like networks that hold the former, as
    in the 1x1 convolution head `GlobalAveragePooling2D(keepdims=True)` -> `Conv2D(classes, 1)`.

    Args:
        source: Path or bytes of a .tflite file with dense kernels, float32 or made smaller by `quantize_weights`.

    Returns:
        The bytes of the smaller file; the given ones when no kernel shrinks.

    Raises:
        HarpError: If the file cannot be read or is not a TFLite file.
    """
    model = read_model(source)
    graph = model.subgraphs[0]
    shapes = tensor_shapes(source)
    densify = []
    changed = False
    for weight in weight_tensors(model):
        tensor = graph.tensors[weight.index]
        readers = kernel_readers(model, weight)
        if not readers or tensor.type not in STORED_TYPES:
            continue
        if tensor.type != schema.TensorType.FLOAT32 and not _safe_when_quantised(model, weight, readers):
            continue
        direct = direct_encoding(model, weight, readers, shapes)
        if direct is not None:
            tensor.buffer, tensor.sparsity = add_buffer(model, direct[0]), direct[1]
            compute_sparse(model, readers)
            changed = True
            continue
        data = model.buffers[tensor.buffer].data
        values, sparsity = encode(data.view(STORED_TYPES[tensor.type]).reshape(tuple(tensor.shape)))
        if encoded_bytes(values, sparsity) + _TABLE_BYTES >= data.nbytes:
            continue
        tensor.buffer, tensor.sparsity = add_buffer(model, values), sparsity
        dense = add_tensor(model, weight.index, "dense", shape=tensor.shape, quantization=tensor.quantization)
        tensor.quantization = None  # the unpacked tensor's counts; scales are large beside few weights
        densify.append(
            new_operator(model, schema.BuiltinOperator.DENSIFY, [weight.index], dense, schema.DensifyOptionsT())
        )
        redirect(readers, weight.index, dense)
    if not (changed or densify):
        return read_bytes(source)
    graph.operators[:0] = densify
    _reshape_after_global_means(model)
    return write_model(model)


def _safe_when_quantised(model: schema.ModelT, weight: WeightTensor, readers: list[schema.OperatorT]) -> bool:
    users = {operator_name(model, user) for user in weight.operators}
    if {operator_name(model, reader) for reader in readers} == {"DEQUANTIZE"}:
        # XNNPACK takes the kernel of a transposed convolution before it was unpacked twice, and computes NaN.
        return "TRANSPOSE_CONV" not in users
    return users == {"CONV_2D"}


def _reshape_after_global_means(model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    operators = []
    for operator in graph.operators:
        operators.append(operator)
        if not is_global_average(model, operator) or not operator.builtinOptions.keepDims:
            continue
        result = int(operator.outputs[0])
        pooled = graph.tensors[result].shape
        if len(pooled) != 4:
            continue
        channels = pooled[3]
        flat = add_tensor(
            model,
            result,
            "flat",
            shape=np.array([1, channels], np.int32),
            shapeSignature=np.array([-1, channels], np.int32),
            quantization=graph.tensors[result].quantization,
        )
        operator.builtinOptions.keepDims = False
        operator.outputs = np.array([flat], np.int32)
        new_shape = np.array([-1, 1, 1, channels], np.int32)
        shape = add_tensor(
            model,
            result,
            "shape",
            shape=np.array([4], np.int32),
            type=schema.TensorType.INT32,
            buffer=add_buffer(model, new_shape),
        )
        operators.append(
            new_operator(
                model,
                schema.BuiltinOperator.RESHAPE,
                [flat, shape],
                result,
                schema.ReshapeOptionsT(newShape=new_shape),
            )
        )
    graph.operators = operators
