"""Networks that are cut in two: their outputs are the same for all images."""

from collections.abc import Collection, Sequence

import keras

from harp_tf.compaction.analysis import Analysis, known_channels
from harp_tf.compaction.nodes import Node, nodes_of
from harp_tf.compaction.rules import rules_of
from harp_tf.layers.graph import Tensor, graph_of
from harp_tf.layers.rebuild import require_graph


def cut_at(model: keras.Model) -> list[str]:
    """The layers where a pruned network loses its images: what these read depends on them, what they return does not.

    Args:
        model: a plain Sequential or Functional model, such as `harp_tf.strip` makes.

    Returns:
        Their names, [] if the outputs depend on the images.

    Raises:
        HarpError: if `model` is no such model.
    """
    require_graph(model)
    graph = graph_of(model)
    rules = rules_of(nodes_of(graph))
    return cut_in(rules, graph.outputs, known_channels(rules, graph.inputs))


def cut_in(nodes: Collection[Node], outputs: Sequence[Tensor], analysis: Analysis) -> list[str]:
    """As `cut_at`, of the calls of a model, its outputs, and what is known of all tensors."""

    def constant(tensors: Sequence[Tensor]) -> bool:
        return all(analysis.value(tensor).known.all() for tensor in tensors)

    if not constant(outputs):
        return []
    return [node.name for node in nodes if constant(node.outputs) and not constant(node.inputs)]
