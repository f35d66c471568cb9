"""Layers that treat every element by itself: activations, dropout, additions, products."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers

from harp_tf.compaction.analysis import Analysis
from harp_tf.compaction.nodes import Node, channels, is_elementwise
from harp_tf.compaction.rule import Rule, call_on, smaller
from harp_tf.compaction.values import Value
from harp_tf.layers.graph import Tensor


def activate(activation, values: np.ndarray) -> np.ndarray:
    """Applies a Keras activation to an array; NaN, which stands for unknown, stays."""
    result = keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(values, "float32")))
    return np.where(np.isnan(values), np.nan, result.astype(np.float64))


class Tied(Rule):
    """Layers whose output has the channels of their inputs: a channel is kept in all of them or in none."""

    def backward(self, node: Node, analysis: Analysis) -> None:
        (output,) = node.outputs
        width = channels(output)
        tied = [output, *(t for t in self.read(node, analysis) if channels(t) == width)]
        kept = np.logical_or.reduce([analysis.kept(tensor) for tensor in tied])
        for tensor in tied:
            analysis.keep(tensor, kept)
        for tensor in self.read(node, analysis):
            if channels(tensor) != width:  # one channel that all others share
                analysis.keep(tensor, True)

    def read(self, node: Node, analysis: Analysis) -> Sequence[Tensor]:
        """The inputs that are not ignored."""
        return node.inputs

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        if isinstance(node.operation, layers.Layer):
            return smaller(node, tensors)
        return super().rewrite(node, analysis, tensors)


class Elementwise(Tied):
    """Functions of single elements, of one tensor or of several, whose constants Keras' own layer computes."""

    def refuses(self, node: Node) -> str | None:
        (output,) = node.outputs
        if any(len(t.shape) != len(output.shape) or channels(t) not in (1, channels(output)) for t in node.inputs):
            return "its inputs differ in rank or channels"
        return None

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        (output,) = node.outputs
        rank = len(output.shape)
        given = {t.index: analysis.value(t).constants for t in node.inputs}
        arrays = {
            # What is unknown must not spoil what is known, whatever the function makes of NaN.
            index: keras.ops.convert_to_tensor(np.nan_to_num(c).reshape((1,) * (rank - 1) + (-1,)), "float32")
            for index, c in given.items()
        }
        computed = keras.ops.convert_to_numpy(call_on(node, arrays, node.operation)).astype(np.float64).reshape(-1)
        missing = np.zeros(channels(output) or 1, bool)
        for constants in given.values():
            missing = missing | np.isnan(constants)
        return [Value(np.where(missing | ~np.isfinite(computed), np.nan, computed))]


class Rescaling(Elementwise):
    """Rescaling, whose settings may be lists with an entry per channel."""

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        kept = analysis.kept(node.outputs[0])
        changes = {}
        for setting in ("scale", "offset"):
            values = np.asarray(getattr(node.operation, setting))
            if values.ndim and values.shape[-1] == len(kept):
                changes[setting] = values[..., kept].tolist()
        return smaller(node, tensors, changes)


class Activation(Elementwise):
    """`keras.layers.Activation` of a function of single elements."""

    def refuses(self, node: Node) -> str | None:
        if not is_elementwise(node.operation.activation):
            return f"its activation {getattr(node.operation.activation, '__name__', '?')!r} is not known"
        return super().refuses(node)


class Product(Elementwise):
    """Products: 0 times anything is 0."""

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        (value,) = super().forward(node, analysis)
        assert value is not None
        zero = np.zeros(len(value.coefficients), bool)
        for tensor in node.inputs:
            zero = zero | (analysis.value(tensor).coefficients == 0)
        return [Value(np.where(zero, 0.0, value.coefficients))]


class Sum(Elementwise):
    """Sums, in which an input that is zero in all kept channels is left out."""

    def read(self, node: Node, analysis: Analysis) -> Sequence[Tensor]:
        (output,) = node.outputs
        kept = analysis.kept(output)
        read = [t for t in node.inputs if t.shape != output.shape or np.any(analysis.value(t).coefficients[kept] != 0)]
        # An output that is a constant still has to come from somewhere.
        return read if any(t.shape == output.shape for t in read) else node.inputs

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        read = self.read(node, analysis)
        if len(read) == len(node.inputs):
            return super().rewrite(node, analysis, tensors)
        operands = [tensors[tensor.index] for tensor in read]
        return operands if len(operands) == 1 else [layers.Add(name=node.name)(operands)]


LAYERS: dict[type, Rule] = {
    **dict.fromkeys((layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity), Elementwise()),
    **dict.fromkeys((layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D), Elementwise()),
    **dict.fromkeys((layers.SpatialDropout3D, layers.AlphaDropout, layers.GaussianDropout), Elementwise()),
    **dict.fromkeys((layers.GaussianNoise, layers.ActivityRegularization), Elementwise()),
    **dict.fromkeys((layers.Average, layers.Maximum, layers.Minimum, layers.Subtract), Elementwise()),
    layers.Activation: Activation(),
    layers.Add: Sum(),
    layers.Multiply: Product(),
    layers.Rescaling: Rescaling(),
}
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys("Abs Celu Elu Exp Gelu HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid".split(), Elementwise()),
    **dict.fromkeys(
        "Mish Negative Relu Relu6 Selu Sigmoid Silu Softplus Softsign Sqrt Square Tanh".split(), Elementwise()
    ),
    **dict.fromkeys("Subtract Divide TrueDivide Maximum Minimum".split(), Elementwise()),
    "Add": Sum(),
    "Multiply": Product(),
}
