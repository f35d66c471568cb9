"""Reshapes to constant shapes: what the converter makes of Flatten with an open batch dimension computes its shape."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.flatbuffer import add_buffer, add_tensor, int_constant, operator_name


def fix_reshapes(model: schema.ModelT) -> int:
    """Gives reshapes of whose shape only one size is computed a constant shape, with -1 for that size.

    The converter turns Flatten into SHAPE, STRIDED_SLICE, PACK and RESHAPE: the batch size is read off a tensor, put in
    front of constants and used as the shape.

    Args:
        model: a file unpacked by `read_model`, which is changed.

    Returns:
        The number of reshapes that were changed.
    """
    graph = model.subgraphs[0]
    makers = {int(output): operator for operator in graph.operators for output in operator.outputs}
    changed = 0
    for operator in graph.operators:
        if operator_name(model, operator) == "RESHAPE" and len(operator.inputs) == 2:
            shape = _open_shape(model, makers, operator)
            if shape is not None:
                index = int(operator.inputs[1])
                constant = add_tensor(
                    model, index, "constant", shape=np.array([len(shape)], np.int32), buffer=add_buffer(model, shape)
                )
                operator.inputs = np.array([operator.inputs[0], constant], np.int32)
                operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
                operator.builtinOptions = schema.ReshapeOptionsT(newShape=shape)
                changed += 1
    if changed:
        _drop_unread(model)
    return changed


def _open_shape(
    model: schema.ModelT, makers: dict[int, schema.OperatorT], reshape: schema.OperatorT
) -> np.ndarray | None:
    """The shape with -1 for the one size that is computed, None if there is no such shape."""
    pack = makers.get(int(reshape.inputs[1]))
    if pack is None or operator_name(model, pack) != "PACK":
        return None
    sizes = [_number(model, int(index)) for index in pack.inputs]
    # Where the size comes from does not matter: a reshape keeps the number of elements.
    if sum(size is None for size in sizes) != 1 or any(size is not None and size <= 0 for size in sizes):
        return None
    return np.array([-1 if size is None else size for size in sizes], np.int32)


def _number(model: schema.ModelT, index: int) -> int | None:
    if model.subgraphs[0].tensors[index].type != schema.TensorType.INT32:
        return None
    values = int_constant(model, index)
    return int(values[0]) if values is not None and values.size == 1 else None


def _drop_unread(model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    wanted = {int(index) for index in graph.outputs}
    kept = []
    for operator in reversed(graph.operators):
        if any(int(index) in wanted for index in operator.outputs):
            wanted.update(int(index) for index in operator.inputs)
            kept.append(operator)
    graph.operators = kept[::-1]
