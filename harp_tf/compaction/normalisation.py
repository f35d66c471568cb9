"""Layers with a weight per channel, batch normalisation above all, and its folding into the layer before."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers

from harp_tf.compaction.analysis import Analysis
from harp_tf.compaction.elementwise import Elementwise
from harp_tf.compaction.nodes import Node, is_depthwise
from harp_tf.compaction.rule import LeftAlone, Rule, smaller
from harp_tf.compaction.values import Value
from harp_tf.layers.graph import Tensor

_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance", "alpha")


class WithWeights(Elementwise):
    """Layers with a weight per channel."""

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        kept = analysis.kept(node.outputs[0])
        names = [name for name in _WEIGHTS if getattr(node.operation, name, None) is not None]
        weights = {name: keras.ops.convert_to_numpy(getattr(node.operation, name))[..., kept] for name in names}
        return smaller(node, tensors, weights=weights)


class BatchNormalization(WithWeights):
    """Batch normalisation at inference."""

    def refuses(self, node: Node) -> str | None:
        if node.operation.axis not in (-1, len(node.outputs[0].shape) - 1):
            return "it does not normalise over the last axis"
        return super().refuses(node)

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        scale, shift = scale_and_shift(node.operation)
        constants = scale * analysis.value(node.inputs[0]).constants + shift
        return [Value(np.where(scale == 0, shift, constants))]


class PReLU(WithWeights):
    """ReLU with a learned slope, one for all positions."""

    def refuses(self, node: Node) -> str | None:
        if any(length != 1 for length in node.operation.alpha.shape[:-1]):
            return "its slopes differ between positions"
        return super().refuses(node)


def scale_and_shift(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """A batch normalisation at inference as scale · x + shift, both float64 `[channels]`."""
    mean, variance = (
        keras.ops.convert_to_numpy(v).astype(np.float64) for v in (layer.moving_mean, layer.moving_variance)
    )
    gamma = keras.ops.convert_to_numpy(layer.gamma).astype(np.float64) if layer.scale else 1.0
    beta = keras.ops.convert_to_numpy(layer.beta).astype(np.float64) if layer.center else 0.0
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale


def fold_batch_norms(rules: Mapping[Node, Rule], outputs: Sequence[Tensor]) -> dict[Node, Rule]:
    """Makes every batch normalisation a part of the layer that it alone reads, where that has no activation.

    Args:
        rules: the calls of a model in an order in which they can be executed, each with its rule.
        outputs: the tensors that the model returns.

    Returns:
        The calls without the folded ones, likewise.
    """
    readers = collections.Counter(t.index for node in rules for t in node.inputs)
    readers.update(tensor.index for tensor in outputs)
    found: dict[int, Node] = {}  # by the tensor that it makes
    kept: dict[Node, Rule] = {}
    for node, rule in rules.items():
        before = found.get(node.inputs[0].index) if isinstance(rule, BatchNormalization) else None
        if before is not None and readers[before.outputs[0].index] == 1:
            rule = kept.pop(before)
            node = _folded(before, node)
        kept[node] = rule
        if node.kernel is not None and not isinstance(rule, LeftAlone):
            if node.operation.activation is keras.activations.linear:
                found[node.outputs[0].index] = node
    # A folded node stands where its batch normalisation stood, which is early enough for every reader.
    return kept


def _folded(before: Node, norm: Node) -> Node:
    assert before.kernel is not None and before.bias is not None
    scale, shift = scale_and_shift(norm.operation)
    factors = scale.reshape(-1, before.kernel.shape[-1]) if is_depthwise(before.operation) else scale
    # Adding 0 turns -0.0 into 0.0.
    kernel = (before.kernel * factors).astype(before.kernel.dtype) + 0.0
    bias = (before.bias * scale + shift).astype(before.bias.dtype)
    return dataclasses.replace(before, outputs=norm.outputs, kernel=kernel, bias=bias)


LAYERS: dict[type, Rule] = {layers.BatchNormalization: BatchNormalization(), layers.PReLU: PReLU()}
