"""The verb `compact`: a plain Keras model without the channels that do nothing."""

import keras
import numpy as np

from harp_tf.compaction.analysis import Analysis, analyse, is_computed
from harp_tf.compaction.cut import cut_in
from harp_tf.compaction.nodes import Node, is_depthwise, nodes_of
from harp_tf.compaction.normalisation import fold_batch_norms
from harp_tf.compaction.report import CompactionReport, LayerChange
from harp_tf.compaction.rule import Rule
from harp_tf.compaction.rules import left_alone, rules_of
from harp_tf.layers.graph import Graph, functional_of, graph_of
from harp_tf.layers.rebuild import rebuild, require_graph
from harp_tf.types import HarpError

_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.1  # of the spread of the outputs; the second where layers compute in 16 bits
_CHECKED = 2  # examples on which both models are compared
_SIZE = 32  # of axes whose length is open


def compact(model: keras.Model, *, fold_batch_norm: bool = True, verbose: bool = True) -> keras.Model:
    """Removes the channels that are constant or that nothing reads, without changing what the model computes.

    A channel whose weights are all zero is a constant. Constants become part of the next bias; where the next layer
    pads with zeros, one of them stands for all. Layers of kinds that are not known are left alone and named.

    Args:
        model: a plain Sequential or Functional model, such as `harp_tf.strip` makes; it is not changed.
        fold_batch_norm: make batch normalisations a part of the convolution or Dense layer before them. False keeps
            them, for a model that is to be trained further.
        verbose: print what was removed.

    Returns:
        A plain Functional model with the same inputs and outputs, nested models opened. Its outputs are the given
        model's at inference, up to rounding.

    Raises:
        HarpError: if the model is no such model, still has pruned layers, or has a layer that cannot be copied.
    """
    small, report = compact_with_report(model, fold_batch_norm=fold_batch_norm)
    if verbose:
        print(report)
    return small


def compact_with_report(model: keras.Model, *, fold_batch_norm: bool = True) -> tuple[keras.Model, CompactionReport]:
    """Does what `compact` does, and returns the report too."""
    require_graph(model)
    own = [layer.name for layer in model._flatten_layers() if type(layer).__module__.startswith("harp_tf.")]
    if own:
        raise HarpError(
            f"Expected a plain model, received {own[0]!r}, a layer of harp_tf. Call harp_tf.strip(model) first."
        )
    copy = rebuild(model, lambda path, layer: None)  # its unknown layers go into the compact model
    graph = graph_of(copy)
    rules = rules_of(nodes_of(graph))
    if fold_batch_norm:
        rules = fold_batch_norms(rules, graph.outputs)
    analysis = analyse(rules, graph.inputs, graph.outputs)
    small = _rewritten(copy, graph, rules, analysis)
    difference = _difference(model, small)
    half = any(getattr(node.operation, "compute_dtype", "") in ("float16", "bfloat16") for node in rules)
    if not difference <= (_HALF_TOLERANCE if half else _TOLERANCE):  # NaN is not
        raise HarpError(
            f"Compaction would change the outputs of model {model.name!r} by {difference:.1e} of their spread, which "
            "it must not. Ship the model as it is, and please report this."
        )
    report = CompactionReport(
        layers=tuple(_change(node, analysis) for node in rules if node.kernel is not None),
        left_alone=left_alone(rules),
        parameters_before=model.count_params(),
        parameters_after=small.count_params(),
        difference=difference,
        cut=tuple(cut_in(rules, graph.outputs, analysis)),
    )
    return small, report


def _rewritten(model: keras.Model, graph: Graph, rules: dict[Node, Rule], analysis: Analysis) -> keras.Model:
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=own.name)
        for tensor, own in zip(graph.inputs, model.inputs, strict=True)
    ]
    tensors = {tensor.index: symbol for tensor, symbol in zip(graph.inputs, inputs, strict=True)}
    for node, rule in rules.items():
        if is_computed(node, analysis):
            results = rule.rewrite(node, analysis, tensors)
            tensors.update((tensor.index, result) for tensor, result in zip(node.outputs, results, strict=True))
    outputs = [tensors[tensor.index] for tensor in graph.outputs]
    functional, pack = functional_of(model), keras.tree.pack_sequence_as
    return keras.Model(
        pack(functional._inputs_struct, inputs), pack(functional._outputs_struct, outputs), name=model.name
    )


def _change(node: Node, analysis: Analysis) -> LayerChange:
    assert node.kernel is not None and node.bias is not None
    source, outputs = (analysis.kept(tensor) for tensor in (node.inputs[0], node.outputs[0]))
    count, weights = int(np.count_nonzero(outputs)), node.kernel.size
    share = np.mean(outputs) * (1 if is_depthwise(node.operation) else np.mean(source))
    return LayerChange(node.name, len(node.bias), count, weights, round(weights * float(share)))


def _difference(model: keras.Model, small: keras.Model) -> float:
    """Largest difference of an output on random inputs, relative to the spread of that output.

    The spread is the standard deviation, but at least a hundredth of the largest value.
    """
    rng = np.random.default_rng(0)
    arrays = []
    for tensor in model.inputs:
        shape = (tensor.shape[0] or _CHECKED, *(_SIZE if size is None else size for size in tensor.shape[1:]))
        values = rng.integers(0, 256, shape) if "int" in tensor.dtype else rng.random(shape)
        arrays.append(values.astype(tensor.dtype))
    given = keras.tree.pack_sequence_as(functional_of(model)._inputs_struct, arrays)
    worst = 0.0
    results = (keras.tree.flatten(m(given, training=False)) for m in (model, small))
    for one, other in zip(*results, strict=True):
        one, other = (keras.ops.convert_to_numpy(array).astype(np.float64) for array in (one, other))
        scale = max(np.std(one), 0.01 * np.max(np.abs(one))) or 1.0
        worst = float(np.maximum(worst, np.max(np.abs(one - other)) / scale))  # NaN stays
    return worst
