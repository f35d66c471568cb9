"""Which channels of a model are known in advance, and which have to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harp_tf.compaction.nodes import Node, channels
from harp_tf.compaction.values import Value, unknown
from harp_tf.layers.graph import Tensor

if TYPE_CHECKING:
    from harp_tf.compaction.rule import Rule


class Analysis:
    """What was found out about every tensor: the known channels, and the channels that are kept.

    A tensor without a channel axis of fixed length counts as one channel of which nothing is known.
    """

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._kept: dict[int, np.ndarray] = {}
        self.grown = False

    def learn(self, tensor: Tensor, value: Value | None = None) -> None:
        """Stores what is known of a tensor, of which nothing is kept yet."""
        self._values[tensor.index] = unknown(channels(tensor) or 1) if value is None else value
        self._kept[tensor.index] = np.zeros(len(self._values[tensor.index].coefficients), bool)

    def value(self, tensor: Tensor) -> Value:
        """What is known of a tensor."""
        return self._values[tensor.index]

    def kept(self, tensor: Tensor) -> np.ndarray:
        """bool `[channels]`: the channels of a tensor that the compact model computes; not to be changed."""
        return self._kept[tensor.index]

    def keep(self, tensor: Tensor, wanted: np.ndarray | bool) -> None:
        """Keeps these channels too; what is kept once stays."""
        kept = self._kept[tensor.index]
        if np.any(wanted & ~kept):
            kept |= wanted
            self.grown = True


def known_channels(rules: dict[Node, Rule], inputs: Sequence[Tensor]) -> Analysis:
    """Finds the known channels of every tensor, front to back; nothing is kept yet. Arguments as of `analyse`."""
    analysis = Analysis()
    for tensor in inputs:
        analysis.learn(tensor)
    for node, rule in rules.items():
        for tensor, value in zip(node.outputs, rule.forward(node, analysis), strict=True):
            analysis.learn(tensor, value)
    return analysis


def analyse(rules: dict[Node, Rule], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Analysis:
    """Finds the known channels, front to back, and the smallest set of channels to keep, back to front.

    Args:
        rules: the calls of a model in an order in which they can be executed, each with its rule.
        inputs: the tensors that the model is called with; all their channels are kept.
        outputs: the tensors that it returns; likewise.

    Returns:
        What was found.
    """
    analysis = known_channels(rules, inputs)
    for tensor in (*inputs, *outputs):
        analysis.keep(tensor, True)
    _close(rules, analysis)
    # Where a layer can do with any of several channels, whatever others need anyway serves it too: decide last.
    settled = False
    while not settled:
        settled = True
        for node, rule in reversed(rules.items()):
            if is_computed(node, analysis):
                analysis.grown = False
                rule.settle(node, analysis)
                if analysis.grown:
                    settled = False
                    _close(rules, analysis)
    return analysis


def is_computed(node: Node, analysis: Analysis) -> bool:
    """Whether the compact model contains this call."""
    return any(analysis.kept(tensor).any() for tensor in node.outputs)


def _close(rules: dict[Node, Rule], analysis: Analysis) -> None:
    analysis.grown = True
    while analysis.grown:
        analysis.grown = False
        for node, rule in reversed(rules.items()):
            if is_computed(node, analysis):
                rule.backward(node, analysis)
