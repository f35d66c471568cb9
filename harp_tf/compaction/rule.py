"""What compaction has to know of a kind of layer."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from harp_tf.compaction.analysis import Analysis
from harp_tf.compaction.nodes import Node
from harp_tf.compaction.values import Value
from harp_tf.layers.graph import Tensor


class Rule:
    """The rule of layers of which nothing is known: they read all their inputs and make outputs unknown.

    A rule serves layers with one output. Its methods must be safe for every subset of kept channels that contains
    what `backward` and `settle` asked for.
    """

    def refuses(self, node: Node) -> str | None:
        """Why this rule does not hold for a call of a layer that it is registered for, or None if it does."""
        return None

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        """What is known of every output, None for nothing, from what is known of the inputs."""
        return [None] * len(node.outputs)

    def backward(self, node: Node, analysis: Analysis) -> None:
        """Keeps the channels of the inputs that the kept channels of the outputs need.

        Channels that a call cannot tell apart are kept alike in its inputs and outputs.
        """
        for tensor in (*node.inputs, *node.outputs):
            analysis.keep(tensor, True)

    def settle(self, node: Node, analysis: Analysis) -> None:
        """Keeps one of several channels of an input, where any of them will do; `backward` has been heard before."""

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        """Calls the layer, or a smaller one that takes its place, on the kept channels.

        Args:
            node: the call.
            analysis: what is known and kept.
            tensors: the kept channels of every input, by index of the tensor.

        Returns:
            The kept channels of every output.
        """
        node.operation.name = node.name
        return keras.tree.flatten(call_on(node, tensors, node.operation))


class LeftAlone(Rule):
    """The rule of a layer that is left as it is."""

    def __init__(self, reason: str):
        self.reason = reason


def call_on(node: Node, tensors: Mapping[int, keras.KerasTensor], operation: keras.Operation) -> object:
    """Calls an operation as the node did, on other tensors."""
    args, kwargs = keras.tree.map_structure(
        lambda a: tensors[a.index] if isinstance(a, Tensor) else a, (node.args, node.kwargs)
    )
    return operation(*args, **kwargs)


def smaller(
    node: Node,
    tensors: Mapping[int, keras.KerasTensor],
    changes: Mapping[str, object] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> list:
    """Calls a new layer of the node's class.

    Args:
        node: the call whose layer is replaced.
        tensors: its inputs by index of the tensor.
        changes: entries of its configuration that differ.
        weights: values of its weights by attribute; they are needed for every weight.

    Returns:
        Its output, in a list.
    """
    config = {**node.operation.get_config(), "name": node.name, **(changes or {})}
    layer = type(node.operation).from_config(config)
    result = call_on(node, tensors, layer)
    for name, values in (weights or {}).items():
        getattr(layer, name).assign(values)
    return [result]
