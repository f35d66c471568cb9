"""Sparse files that XNNPACK would compute wrongly on ARM, made right.

Where a network begins like one that runs sparse (see `arm_sparse`) but does not go on like one, XNNPACK may switch its
beginning all the same: the last operator before the one that does not fit then writes its features channel by channel,
and its reader takes them for pixel by pixel. Nothing reports it; the logits are wrong, on ARM only. A max pooling
between the blocks, 'same' padding with stride 2 or a 7x7 depthwise convolution is enough.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.arm_sparse import Walk
from harp_tf.deploy.flatbuffer import (
    Source,
    add_buffer,
    add_tensor,
    new_operator,
    operator_name,
    read_bytes,
    read_model,
    write_model,
)


def prevent_partial_sparse(source: Source) -> bytes:
    """Makes a file that cannot run sparse as a whole on ARM run dense as a whole.

    Behind a first convolution that would begin a sparse part, zero is subtracted: XNNPACK has no sparse subtraction, so
    that nothing behind it can be part of one. The logits stay the same, bit by bit, on processors that were right.

    Args:
        source: Path or bytes of a .tflite file.

    Returns:
        The bytes of the file; the given ones where nothing can go wrong.

    Raises:
        HarpError: If the file cannot be read or is damaged.
    """
    data = read_bytes(source)
    model = read_model(data)
    graph, walk = model.subgraphs[0], Walk(model)
    rules = {finding.rule for finding in walk.findings()}
    # Without sparse kernels, or with too few zeros, XNNPACK switches nothing.
    risky = "storage" not in rules and bool(rules - {"zeros"})
    changed = False
    for convolution in walk.beginnings() if risky else []:
        output = int(convolution.outputs[0])
        tensor = graph.tensors[output]
        readers = {operator_name(model, operator) for operator in graph.operators if output in operator.inputs}
        if tensor.type != schema.TensorType.FLOAT32 or readers == {"SUB"}:
            continue
        same = {"shape": tensor.shape, "shapeSignature": tensor.shapeSignature}
        before = add_tensor(model, output, "before", **same)
        zero = add_tensor(
            model, output, "zero", shape=np.zeros(0, np.int32), buffer=add_buffer(model, np.zeros(1, np.float32))
        )
        convolution.outputs = np.array([before], np.int32)
        subtract = new_operator(model, schema.BuiltinOperator.SUB, [before, zero], output, schema.SubOptionsT())
        graph.operators.insert(graph.operators.index(convolution) + 1, subtract)
        changed = True
    return write_model(model) if changed else data
