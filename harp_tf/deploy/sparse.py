"""Small files: zeros in the kernels of a dense .tflite file are no longer stored.

The converter's own sparse encoding (`EXPERIMENTAL_SPARSITY`) is not used: with other options than plain
float32 it writes files that give NaN, fail to load or are silently wrong. Here a finished dense file is
rewritten instead: a kernel becomes a sparse constant and a DENSIFY operator that unpacks it when the
interpreter is set up. Size shrinks; latency and memory stay those of the dense file.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.encoding import encode, encoded_bytes
from harp_tf.deploy.flatbuffer import (
    Source,
    WeightTensor,
    add_buffer,
    add_tensor,
    new_operator,
    operator_name,
    read_bytes,
    read_model,
    weight_tensors,
    write_model,
)

# Bytes that the tables of a sparse tensor, its DENSIFY operator and its output tensor take at most.
_TABLE_BYTES = 512


def sparsify(source: Source) -> bytes:
    """Stores the float32 kernels of a dense .tflite file sparsely where that is smaller.

    Kernels of convolutions, depthwise and transposed convolutions and fully-connected operators are
    considered, each on its own; all others, and what would not shrink, stay as they are. The values
    are unchanged, so the logits are too.

    Global average pooling that keeps its dimensions becomes pooling without them and a reshape: on ARM,
    not on x86, XNNPACK fails to set up sparse files of MobileNet-like networks that hold the former, as
    in the 1x1 convolution head `GlobalAveragePooling2D(keepdims=True)` -> `Conv2D(classes, 1)`.

    Args:
        source: Path or bytes of a .tflite file with dense float32 kernels.

    Returns:
        The bytes of the smaller file; the given ones when no kernel shrinks.

    Raises:
        HarpError: If the file cannot be read or is not a TFLite file.
    """
    model = read_model(source)
    graph = model.subgraphs[0]
    densify = []
    for weight in weight_tensors(model):
        if not _may_be_sparse(model, weight):
            continue
        tensor = graph.tensors[weight.index]
        data = model.buffers[tensor.buffer].data
        values, sparsity = encode(data.view(np.float32).reshape(tuple(tensor.shape)))
        if encoded_bytes(values, sparsity) + _TABLE_BYTES >= data.nbytes:
            continue
        tensor.buffer, tensor.sparsity = add_buffer(model, values), sparsity
        dense = add_tensor(model, weight.index, "dense", shape=tensor.shape)
        densify.append(
            new_operator(model, schema.BuiltinOperator.DENSIFY, [weight.index], dense, schema.DensifyOptionsT())
        )
        for user in weight.operators:
            user.inputs = np.where(user.inputs == weight.index, dense, user.inputs).astype(np.int32)
    if not densify:
        return read_bytes(source)
    graph.operators[:0] = densify
    _reshape_after_global_means(model)
    _drop_unused_buffers(model)
    return write_model(model)


def _may_be_sparse(model: schema.ModelT, weight: WeightTensor) -> bool:
    graph = model.subgraphs[0]
    tensor = graph.tensors[weight.index]
    readers = sum(int(np.sum(operator.inputs == weight.index)) for operator in graph.operators)
    return (
        tensor.type == schema.TensorType.FLOAT32
        and tensor.sparsity is None
        # Somebody reads it as something else than a kernel: leave it a constant.
        and readers == len(weight.operators)
        and weight.index not in graph.outputs
    )


def _reshape_after_global_means(model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    operators = []
    for operator in graph.operators:
        operators.append(operator)
        if operator_name(model, operator) != "MEAN" or not operator.builtinOptions.keepDims:
            continue
        result = int(operator.outputs[0])
        pooled = graph.tensors[result].shape
        if len(pooled) != 4 or tuple(pooled[1:3]) != (1, 1):
            continue
        channels = pooled[3]
        flat = add_tensor(
            model,
            result,
            "flat",
            shape=np.array([1, channels], np.int32),
            shapeSignature=np.array([-1, channels], np.int32),
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


def _drop_unused_buffers(model: schema.ModelT) -> None:
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used.update(metadata.buffer for metadata in model.metadata or [])
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
