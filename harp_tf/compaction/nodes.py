"""The calls of a model as the analysis sees them: kernels as arrays, channel axes in one place."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from harp_tf.layers.call_names import CallNames
from harp_tf.layers.channel_rules import ELEMENTWISE_ACTIVATIONS
from harp_tf.layers.graph import Call, Graph, Tensor
from harp_tf.layers.registry import TRANSPOSED

_FUNCTIONS = frozenset(getattr(keras.activations, name) for name in ELEMENTWISE_ACTIVATIONS)
_SEPARABLE = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
LINEAR = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, *TRANSPOSED)
"""With `DEPTHWISE`, the classes whose kernels become arrays; subclasses, which may compute something else, do not."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer or operation.

    Attributes:
        name: name in the compact model; equal for all calls of a shared layer.
        operation: the layer or operation of the given model; not built where it stands for a part of one.
        args: its positional arguments, with a `Tensor` wherever a tensor is passed.
        kwargs: its keyword arguments, likewise.
        outputs: the tensors that it makes.
        shared: whether the layer has weights and is called more than once.
        kernel: `[..., inputs, outputs]`, for a depthwise layer `[..., inputs, multiplier]`; None for other layers.
        bias: `[outputs]`, zeros where the layer has none; None for layers without a kernel.
    """

    name: str
    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    shared: bool = False
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All tensors among the arguments, in order."""
        return tuple(t for t in keras.tree.flatten((self.args, self.kwargs)) if isinstance(t, Tensor))

    @functools.cached_property
    def reads(self) -> np.ndarray:
        """bool, the last two axes of the kernel: which weights are not zero at some position."""
        assert self.kernel is not None
        return np.count_nonzero(self.kernel, axis=tuple(range(self.kernel.ndim - 2))) > 0


def channels(tensor: Tensor) -> int | None:
    """Number of channels of a tensor, None if it has no channel axis of a fixed length behind its batch axis."""
    return tensor.shape[-1] if len(tensor.shape) > 1 else None


def nodes_of(graph: Graph) -> list[Node]:
    """The calls that lead to an output, separable convolutions as the two convolutions they are made of."""
    calls = _leading_to(graph.outputs, graph.calls)
    uses = collections.Counter(id(call.operation) for call in calls)
    names = CallNames()
    fresh = 1 + max((t.index for c in graph.calls for t in c.outputs), default=len(graph.inputs))
    nodes: list[Node] = []
    for call in calls:
        operation = call.operation
        shared = uses[id(operation)] > 1 and bool(getattr(operation, "weights", None))
        name = names.of(call, shared)
        node = Node(name, operation, call.args, call.kwargs, call.outputs, shared)
        if _is_two(operation) and not shared and len(node.inputs) == 1:
            nodes += _split(node, fresh, names)
            fresh += 1
        elif type(operation) in (*LINEAR, *DEPTHWISE) and getattr(operation, "quantization_mode", None) is None:
            bias = operation.bias if operation.use_bias else None
            kernel = swap_transposed(operation, keras.ops.convert_to_numpy(operation.kernel))
            nodes.append(_with_kernel(node, kernel, bias))
        else:
            nodes.append(node)
    return nodes


def is_elementwise(activation: object) -> bool:
    """Whether an activation function is one of Keras' own that treat every element by itself."""
    return activation in _FUNCTIONS


def _is_two(operation: keras.Operation) -> bool:
    """Whether a layer is taken as a depthwise and a pointwise one, for both of which there is a rule."""
    return (
        type(operation) in _SEPARABLE
        and is_elementwise(operation.activation)
        and operation.data_format == "channels_last"
    )


def swap_transposed(operation: keras.Operation, kernel: np.ndarray) -> np.ndarray:
    """Brings a kernel into the order inputs, outputs, and back: transposed convolutions have these axes swapped."""
    return np.swapaxes(kernel, -1, -2) if isinstance(operation, TRANSPOSED) else kernel


def is_depthwise(operation: keras.Operation) -> bool:
    """Whether a layer convolves every channel by itself."""
    return isinstance(operation, DEPTHWISE)


def is_transposed(operation: keras.Operation) -> bool:
    """Whether a layer is a transposed convolution."""
    return isinstance(operation, TRANSPOSED)


def _with_kernel(node: Node, kernel: np.ndarray, bias: keras.Variable | None) -> Node:
    outputs = kernel.shape[-1] * (kernel.shape[-2] if is_depthwise(node.operation) else 1)
    values = np.zeros(outputs, kernel.dtype) if bias is None else keras.ops.convert_to_numpy(bias)
    return dataclasses.replace(node, kernel=kernel, bias=values)


def _split(node: Node, fresh: int, names: CallNames) -> list[Node]:
    layer = node.operation
    depthwise_class, pointwise_class = _SEPARABLE[type(layer)]
    config = layer.get_config()
    common = {key: config[key] for key in ("dtype", "data_format", "trainable")}
    taken = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
    depthwise = depthwise_class(**{key: config[key] for key in taken}, use_bias=False, **common)
    ends = ("filters", "use_bias", "activation")
    pointwise = pointwise_class(kernel_size=1, **{key: config[key] for key in ends}, **common)
    # The strides shrink the image in the depthwise part, so its output has the shape of the whole's.
    kernel = keras.ops.convert_to_numpy(layer.depthwise_kernel)
    between_shape = (*node.outputs[0].shape[:-1], kernel.shape[-1] * kernel.shape[-2])
    between = Tensor(fresh, between_shape, node.outputs[0].dtype)
    first = Node(names.unique(f"{node.name}_depthwise"), depthwise, node.args, node.kwargs, (between,))
    second = Node(names.unique(f"{node.name}_pointwise"), pointwise, (between,), {}, node.outputs)
    return [
        _with_kernel(first, kernel, None),
        _with_kernel(second, keras.ops.convert_to_numpy(layer.pointwise_kernel), layer.bias),
    ]


def _leading_to(outputs: Sequence[Tensor], calls: Sequence[Call]) -> list[Call]:
    wanted = {tensor.index for tensor in outputs}
    kept = []
    for call in reversed(calls):
        if any(tensor.index in wanted for tensor in call.outputs):
            wanted.update(tensor.index for tensor in call.inputs)
            kept.append(call)
    return kept[::-1]
