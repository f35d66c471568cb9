"""Depthwise convolutions: every input channel makes its own output channels."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from harp_tf.compaction.analysis import Analysis
from harp_tf.compaction.elementwise import activate
from harp_tf.compaction.linear import position_sums, reaches_padding, with_kernel
from harp_tf.compaction.nodes import DEPTHWISE, Node, is_elementwise
from harp_tf.compaction.rule import Rule
from harp_tf.compaction.values import Value


class Depthwise(Rule):
    """Depthwise convolutions; an input channel and all outputs made from it are kept together."""

    def refuses(self, node: Node) -> str | None:
        if not is_elementwise(node.operation.activation):
            return "its activation works across channels or is not known"
        return None

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        assert node.kernel is not None and node.bias is not None
        value = analysis.value(node.inputs[0])
        if reaches_padding(node.operation):  # as if a layer before had padded
            value = Value(value.coefficients, uniform=False)
        constants = value.constants[:, None] * position_sums(node.kernel)
        constants[~node.reads] = 0.0
        return [Value(activate(node.operation.activation, constants.reshape(-1) + node.bias))]

    def backward(self, node: Node, analysis: Analysis) -> None:
        assert node.kernel is not None
        (source,), (output,) = node.inputs, node.outputs
        multiplier = node.kernel.shape[-1]
        kept = analysis.kept(source) | analysis.kept(output).reshape(-1, multiplier).any(axis=1)
        analysis.keep(source, kept)
        analysis.keep(output, np.repeat(kept, multiplier))

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        assert node.kernel is not None and node.bias is not None
        kernel = node.kernel[..., analysis.kept(node.inputs[0]), :]
        return with_kernel(node, tensors, {}, kernel, node.bias[analysis.kept(node.outputs[0])])


LAYERS: dict[type, Rule] = dict.fromkeys(DEPTHWISE, Depthwise())
