"""Fully-connected layers that are computed from their non-zeros, which takes less time, on every processor.

TFLite has two kernels for it, in float32: one reads the non-zeros of each row, one reads blocks of four neighbours in a
row. Both take about a nanosecond per entry, whatever the size of the matrix, while dense kernels take
0.05 nanoseconds per weight, zeros included, and 0.14 where the matrix does not fit into the cache
(`benchmarks/sparse_dense.py`). The kernel is not unpacked in memory either.

XNNPACK must not get such an operator: it takes the non-zeros for a dense matrix, reads beyond their end and gives wrong
logits. It leaves alone what has version 8, the first one in which sparse weights are allowed.
"""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.encoding import encode_rows, encoded_bytes
from harp_tf.deploy.flatbuffer import WeightTensor, operator_name

BLOCK = 4

# The largest share of entries, non-zeros or blocks, of the weights that pays: there it took 0.8 of the dense time
# or less in all measured cases, and at 0.05 the fastest dense kernel is as fast.
_SHARE = 1 / 30
# Smaller matrices take a microsecond in any case.
_SMALLEST = 4096
_SPARSE_VERSION = 8


def direct_encoding(
    model: schema.ModelT,
    weight: WeightTensor,
    readers: list[schema.OperatorT],
    shapes: Sequence[tuple[int, ...]],
) -> tuple[np.ndarray, schema.SparsityParametersT] | None:
    """The encoding in which a kernel can be computed without its zeros, where that is faster.

    Args:
        model: A file unpacked by `read_model`.
        weight: A dense kernel in it.
        readers: Who reads it, from `kernel_readers`.
        shapes: What `tensor_shapes` says of the file.

    Returns:
        Its values and their coordinates, with or without blocks, whichever takes fewer bytes; None if it is no float32
        kernel of fully-connected operators that read one row per image, or has too many non-zeros.
    """
    graph = model.subgraphs[0]
    tensor = graph.tensors[weight.index]
    if tensor.type != schema.TensorType.FLOAT32:
        return None
    if not all(operator_name(model, reader) == "FULLY_CONNECTED" for reader in readers):
        return None
    # One row per image: a layer that runs once per pixel multiplies matrices, which dense kernels are good at.
    if any(not shapes or shapes[reader.inputs[0]] != (1, tensor.shape[1]) for reader in readers):
        return None
    kernel = model.buffers[tensor.buffer].data.view(np.float32).reshape(tuple(tensor.shape))
    if kernel.size < _SMALLEST:
        return None
    blocks = [1, BLOCK] if kernel.shape[1] % BLOCK == 0 else [1]
    forms = [(block, *encode_rows(kernel, block)) for block in blocks]
    block, values, sparsity = min(forms, key=lambda form: encoded_bytes(*form[1:]))
    return (values, sparsity) if values.size // block <= _SHARE * kernel.size else None


def compute_sparse(model: schema.ModelT, operators: list[schema.OperatorT]) -> None:
    """Marks fully-connected operators as having sparse weights, which keeps XNNPACK off them.

    Args:
        model: The model that holds them; learns the operator's new version.
        operators: The operators, whose kernel has become sparse.
    """
    code = schema.BuiltinOperator.FULLY_CONNECTED
    versions = [(known.builtinCode, known.version) for known in model.operatorCodes]
    if (code, _SPARSE_VERSION) not in versions:
        versions.append((code, _SPARSE_VERSION))
        model.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=_SPARSE_VERSION)
        )
    for operator in operators:
        operator.opcodeIndex = versions.index((code, _SPARSE_VERSION))
