"""Which rule holds for a call."""

from collections.abc import Sequence

import keras
import numpy as np

from harp_tf.compaction import depthwise, elementwise, linear, normalisation, shape, spatial
from harp_tf.compaction.nodes import Node, channels
from harp_tf.compaction.rule import LeftAlone, Rule
from harp_tf.layers.graph import Tensor

# By exact class: a subclass may compute something else.
_LAYERS: dict[type, Rule] = {
    **linear.LAYERS,
    **depthwise.LAYERS,
    **normalisation.LAYERS,
    **elementwise.LAYERS,
    **spatial.LAYERS,
    **shape.LAYERS,
}
# By name of the class behind a function of keras.ops; these classes are not public.
_OPERATIONS: dict[str, Rule] = {**elementwise.OPERATIONS, **shape.OPERATIONS}


def rules_of(nodes: Sequence[Node]) -> dict[Node, Rule]:
    """Every node with its rule, in the given order; layers that have none are left alone."""
    return {node: _rule_of(node) for node in nodes}


def left_alone(rules: dict[Node, Rule]) -> dict[str, str]:
    """Names of the layers that are left alone, each with its class and the reason."""
    return {
        node.name: f"{type(node.operation).__name__}: {rule.reason}"
        for node, rule in rules.items()
        if isinstance(rule, LeftAlone)
    }


def _rule_of(node: Node) -> Rule:
    kind = type(node.operation)
    is_operation = kind.__module__.startswith("keras.src.ops.")
    rule = _OPERATIONS.get(kind.__name__) if is_operation else _LAYERS.get(kind)
    if rule is None:
        return LeftAlone("no rule is known")
    if node.shared:
        return LeftAlone("used more than once, with the same weights")
    if getattr(node.operation, "data_format", None) == "channels_first":
        return LeftAlone("its channels come first")
    if any(channels(tensor) is None for tensor in (*node.inputs, *node.outputs)):
        return LeftAlone("its number of channels is open")
    if len(node.outputs) != 1 or not _is_plain(node, scalars=is_operation):
        return LeftAlone("called with further arguments")
    reason = rule.refuses(node)
    return rule if reason is None else LeftAlone(reason)


def _is_plain(node: Node, scalars: bool) -> bool:
    """Whether a call has no arguments but tensors, and numbers where these are allowed; `training=True` is one."""
    keywords = {key: value for key, value in node.kwargs.items() if value is not None}
    if keywords.get("training") is False:
        del keywords["training"]
    return all(
        isinstance(a, Tensor) or (scalars and isinstance(a, (int, float, np.number)) and not isinstance(a, bool))
        for a in keras.tree.flatten((node.args, keywords))
    )
