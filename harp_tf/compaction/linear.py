"""Dense layers and convolutions: every output is a sum over all inputs, a bias and an activation."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers

from harp_tf.compaction.analysis import Analysis
from harp_tf.compaction.elementwise import activate
from harp_tf.compaction.nodes import LINEAR, Node, is_elementwise, is_transposed, swap_transposed
from harp_tf.compaction.rule import Rule, smaller
from harp_tf.compaction.values import Value

_FIT = 0.1
"""A channel may stand for constants up to 1 / _FIT times its own; more would magnify its rounding."""


def reaches_padding(layer: keras.layers.Layer) -> bool:
    """Whether a layer sees zeros around its input, so that a constant input gives another result at the borders."""
    if isinstance(layer, layers.Dense):
        return False
    return is_transposed(layer) or (layer.padding != "valid" and max(layer.kernel_size) > 1)


class Linear(Rule):
    """Dense layers and convolutions, transposed ones too.

    A known input channel that is 0 is dropped. Other constants become a part of the bias, where no border shows. At
    borders the known channels of one input still differ by a factor only, so one of them stands for all: its slice of
    the kernel becomes the sum of theirs, each times its coefficient over that of the one that stays.
    """

    def refuses(self, node: Node) -> str | None:
        layer = node.operation
        if getattr(layer, "groups", 1) != 1:
            return "a grouped convolution"
        if not is_elementwise(layer.activation):
            return "its activation works across channels or is not known"
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            return "quantised, or with a LoRA part"
        return None

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        assert node.kernel is not None and node.bias is not None
        value = analysis.value(node.inputs[0])
        fixed = value.known if _folds(node, value) else value.coefficients == 0
        coefficients = np.where(fixed, value.coefficients, 0.0)
        constants = coefficients @ position_sums(node.kernel) + node.bias
        constants[node.reads[~fixed].any(axis=0)] = np.nan
        return [Value(activate(node.operation.activation, constants))]

    def backward(self, node: Node, analysis: Analysis) -> None:
        (source,) = node.inputs
        analysis.keep(source, self._read(node, analysis) & ~analysis.value(source).known)

    def settle(self, node: Node, analysis: Analysis) -> None:
        (source,) = node.inputs
        value, kept = analysis.value(source), analysis.kept(source)
        size = np.where(value.known, np.abs(value.coefficients), -1.0)
        merged = self._read(node, analysis) & value.nonzero & ~kept
        unfit = merged.any() and np.max(size, where=kept, initial=0.0) < _FIT * np.max(size[merged])
        if not kept.any() or (unfit and not _folds(node, value)):  # every layer has to have an input
            analysis.keep(source, np.arange(len(size)) == np.argmax(size))

    def rewrite(self, node: Node, analysis: Analysis, tensors: Mapping[int, keras.KerasTensor]) -> list:
        assert node.kernel is not None and node.bias is not None
        (source,) = node.inputs
        value, kept, outputs = analysis.value(source), analysis.kept(source), analysis.kept(node.outputs[0])
        kernel = node.kernel[..., kept, :][..., outputs]
        bias = node.bias[outputs].astype(np.float64)
        gone = value.nonzero & ~kept
        slices = node.kernel[..., gone, :][..., outputs].astype(np.float64)
        if _folds(node, value):
            bias += value.coefficients[gone] @ position_sums(slices)
        elif np.any(slices):
            stays = int(np.argmax(np.where(value.known & kept, np.abs(value.coefficients), -1.0)))
            factors = value.coefficients[gone] / value.coefficients[stays]
            kernel[..., np.count_nonzero(kept[:stays]), :] += np.einsum("i,...io->...o", factors, slices)
        counts = {"units" if isinstance(node.operation, layers.Dense) else "filters": kernel.shape[-1]}
        return with_kernel(node, tensors, counts, kernel, bias)

    @staticmethod
    def _read(node: Node, analysis: Analysis) -> np.ndarray:
        return np.logical_or.reduce(node.reads[:, analysis.kept(node.outputs[0])], axis=1)


def with_kernel(
    node: Node, tensors: Mapping[int, keras.KerasTensor], changes: Mapping, kernel: np.ndarray, bias: np.ndarray
) -> list:
    """Calls a smaller layer with this kernel, and a bias only if it needs one."""
    use_bias = bool(node.operation.use_bias or np.any(bias))
    weights = {"kernel": swap_transposed(node.operation, kernel), **({"bias": bias} if use_bias else {})}
    return smaller(node, tensors, {**changes, "use_bias": use_bias}, weights)


def position_sums(kernel: np.ndarray) -> np.ndarray:
    """float64, the last two axes of a kernel: what an input that is 1 everywhere adds to every output."""
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)), dtype=np.float64)


def _folds(node: Node, value: Value) -> bool:
    return value.uniform and not reaches_padding(node.operation)


LAYERS: dict[type, Rule] = dict.fromkeys(LINEAR, Linear())
