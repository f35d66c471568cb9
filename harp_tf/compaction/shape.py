"""Layers that move channels: flattening, reshaping, concatenation."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers

from harp_tf.compaction.analysis import Analysis
from harp_tf.compaction.elementwise import Tied
from harp_tf.compaction.nodes import Node, channels
from harp_tf.compaction.rule import Rule, smaller
from harp_tf.compaction.values import Value


class Flatten(Rule):
    """Flatten, and Reshape to a vector: every position has a row of channels of its own, which are kept alike."""

    def refuses(self, node: Node) -> str | None:
        (source,), (output,) = node.inputs, node.outputs
        return None if None not in source.shape[1:] and len(output.shape) == 2 else "its positions are not fixed"

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        return [Value(np.tile(analysis.value(node.inputs[0]).constants, _positions(node)))]

    def backward(self, node: Node, analysis: Analysis) -> None:
        (source,), (output,) = node.inputs, node.outputs
        kept = analysis.kept(source) | analysis.kept(output).reshape(_positions(node), -1).any(axis=0)
        analysis.keep(source, kept)
        analysis.keep(output, np.tile(kept, _positions(node)))

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        return smaller(node, tensors)


class Reshape(Rule):
    """Reshape, where it leaves the channels their axis, or makes a vector of everything."""

    def __init__(self) -> None:
        self._kinds = {True: ReshapePositions(), False: ReshapeToVector()}

    def refuses(self, node: Node) -> str | None:
        return self._of(node).refuses(node)

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        return self._of(node).forward(node, analysis)

    def backward(self, node: Node, analysis: Analysis) -> None:
        self._of(node).backward(node, analysis)

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        return self._of(node).rewrite(node, analysis, tensors)

    def _of(self, node: Node) -> Rule:
        return self._kinds[channels(node.inputs[0]) == channels(node.outputs[0])]


class ReshapePositions(Tied):
    """Reshape that leaves the channels the last axis."""

    def refuses(self, node: Node) -> str | None:
        return None if None not in node.inputs[0].shape[1:] else "its positions are not fixed"

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        return [analysis.value(node.inputs[0])]

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        (output,) = node.outputs
        kept = int(np.count_nonzero(analysis.kept(output)))
        return smaller(node, tensors, {"target_shape": (*output.shape[1:-1], kept)})


class ReshapeToVector(Flatten):
    """Reshape that makes a vector of everything."""

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        return smaller(node, tensors, {"target_shape": (int(np.count_nonzero(analysis.kept(node.outputs[0]))),)})


class Concatenate(Rule):
    """Concatenation of channels; an input of which nothing is kept is left out."""

    def refuses(self, node: Node) -> str | None:
        axis = node.operation.axis
        return None if axis in (-1, len(node.outputs[0].shape) - 1) else "it does not concatenate channels"

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        return [Value(np.concatenate([analysis.value(tensor).constants for tensor in node.inputs]))]

    def backward(self, node: Node, analysis: Analysis) -> None:
        (output,) = node.outputs
        ends = np.cumsum([len(analysis.kept(tensor)) for tensor in node.inputs])
        for tensor, part in zip(node.inputs, np.split(analysis.kept(output), ends[:-1]), strict=True):
            analysis.keep(tensor, part)
        analysis.keep(output, np.concatenate([analysis.kept(tensor) for tensor in node.inputs]))

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        parts = [tensors[tensor.index] for tensor in node.inputs if analysis.kept(tensor).any()]
        return parts if len(parts) == 1 else [layers.Concatenate(name=node.name)(parts)]


def _positions(node: Node) -> int:
    return math.prod(length or 1 for length in node.inputs[0].shape[1:-1])


LAYERS: dict[type, Rule] = {
    layers.Concatenate: Concatenate(),
    layers.Flatten: Flatten(),
    layers.Reshape: Reshape(),
}
OPERATIONS: dict[str, Rule] = {"Concatenate": Concatenate()}
