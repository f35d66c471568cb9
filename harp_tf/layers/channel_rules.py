"""What layers and operations do to the channels of their inputs: the last axis of a tensor."""

from collections.abc import Collection

import keras
import numpy as np

from harp_tf.layers.channel_ids import ChannelIds
from harp_tf.layers.graph import Call, Graph, Tensor
from harp_tf.layers.registry import kernels_of

_layers = keras.layers

ELEMENTWISE_ACTIVATIONS = frozenset(
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid mish relu "
    "relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink "
    "threshold".split()
)
"""Names of Keras' activation functions that treat every element by itself."""

_ELEMENTWISE_OPERATIONS = frozenset(
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus LogSigmoid LeakyRelu "
    "HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold Absolute Abs Negative Square "
    "Exp Tanh Clip Cast Identity".split()
)
_ARITHMETIC_OPERATIONS = frozenset("Add Subtract Multiply Maximum Minimum".split())
_RESHAPING_OPERATIONS = frozenset("Reshape Squeeze ExpandDims".split())
_REDUCTIONS = frozenset("Mean Max Sum".split())

_PER_CHANNEL_LAYERS = (
    *(_layers.ReLU, _layers.LeakyReLU, _layers.ELU, _layers.PReLU, _layers.Identity, _layers.ActivityRegularization),
    *(_layers.Dropout, _layers.AlphaDropout, _layers.GaussianDropout, _layers.GaussianNoise),
    *(_layers.SpatialDropout1D, _layers.SpatialDropout2D, _layers.SpatialDropout3D),
    *(_layers.MaxPooling1D, _layers.MaxPooling2D, _layers.MaxPooling3D),
    *(_layers.AveragePooling1D, _layers.AveragePooling2D, _layers.AveragePooling3D),
    *(_layers.GlobalMaxPooling1D, _layers.GlobalMaxPooling2D, _layers.GlobalMaxPooling3D),
    *(_layers.GlobalAveragePooling1D, _layers.GlobalAveragePooling2D, _layers.GlobalAveragePooling3D),
    *(_layers.ZeroPadding1D, _layers.ZeroPadding2D, _layers.ZeroPadding3D),
    *(_layers.Cropping1D, _layers.Cropping2D, _layers.Cropping3D),
    *(_layers.UpSampling1D, _layers.UpSampling2D, _layers.UpSampling3D),
    *(_layers.Rescaling, _layers.Resizing),
)
_MERGES = (
    *(_layers.Add, _layers.Subtract, _layers.Multiply, _layers.Average, _layers.Maximum, _layers.Minimum),
    _layers.Concatenate,
)


class ChannelFlow:
    """Follows the channels of a model from call to call.

    An operation keeps channels, ties those of several tensors together, makes new ones, or is not known: then the
    channels of its inputs and outputs are fixed, as those of the model's inputs and outputs are.

    Args:
        graph: the calls of a plain model.
        readers: paths of the layers whose input channels may be masked.

    Attributes:
        ids: the channels.
        reads: per reader, the channels that it reads, an int array along its kernel's input axis.
        makes: per layer with a kernel, the channels that it makes, an int array [c] per call.
        keeps: per normalisation layer or depthwise convolution, the channels that it hands on, likewise.
    """

    def __init__(self, graph: Graph, readers: Collection[str]):
        self.ids = ChannelIds()
        self.reads: dict[str, np.ndarray] = {}
        self.makes: dict[str, list[np.ndarray]] = {}
        self.keeps: dict[str, list[np.ndarray]] = {}
        self._readers = readers
        self._axes: dict[int, np.ndarray] = {}
        for tensor in graph.inputs:
            self._make_fixed(tensor, "an input of the model")
        for call in graph.calls:
            self._follow(call)
        for tensor in graph.outputs:
            self.ids.fix(self._axes[tensor.index], "an output of the model")

    def _make_fixed(self, tensor: Tensor, reason: str) -> None:
        self._axes[tensor.index] = self.ids.block(_channels(tensor))
        self.ids.fix(self._axes[tensor.index], reason)

    def _follow(self, call: Call) -> None:
        inputs = [self._axes[tensor.index] for tensor in call.inputs]
        known = bool(inputs) and len(call.outputs) == 1
        known = known and getattr(call.operation, "data_format", None) != "channels_first"
        made = self._made(call, inputs) if known else None
        if made is not None and len(made) == _channels(call.outputs[0]):
            self._axes[call.outputs[0].index] = made
            return
        where = f"{call.path} ({type(call.operation).__name__})"
        for ids in inputs:
            self.ids.fix(ids, f"read by {where}")
        for tensor in call.outputs:
            self._make_fixed(tensor, f"made by {where}")

    def _made(self, call: Call, inputs: list[np.ndarray]) -> np.ndarray | None:
        """The channels of a call's only output, None if the operation is not known."""
        operation, name = call.operation, type(call.operation).__name__
        if kernels_of(type(operation)):
            return self._kernel_layer(call, inputs)
        if type(operation) in _MERGES:
            return self._merged(call, inputs)
        if type(operation).__module__.startswith("keras.src.ops."):
            if name == "Concatenate" or name in _ARITHMETIC_OPERATIONS:
                return self._merged(call, inputs)
            reshapes, keeps = name in _RESHAPING_OPERATIONS, name in _ELEMENTWISE_OPERATIONS or _reduces_positions(call)
        else:
            reshapes = type(operation) in (_layers.Flatten, _layers.Reshape)
            keeps = type(operation) in _PER_CHANNEL_LAYERS or _normalises_each_channel(call)
            keeps = keeps or (type(operation) is _layers.Activation and _is_elementwise(operation))
        if len(inputs) != 1:
            return None
        if reshapes:
            return _repeated(inputs[0], call.outputs[0])
        if keeps:
            self.keeps.setdefault(call.path, []).append(inputs[0])
        return inputs[0] if keeps else None

    def _merged(self, call: Call, inputs: list[np.ndarray]) -> np.ndarray | None:
        """The output of a concatenation or of an operation on several tensors, channel by channel."""
        channels = _channels(call.outputs[0])
        if type(call.operation).__name__ == "Concatenate":
            rank = len(call.outputs[0].shape)
            if call.operation.axis % rank == rank - 1:
                return np.concatenate(inputs)
        whole = [ids for ids in inputs if len(ids) == channels]
        for ids in inputs:
            if len(ids) != channels:
                self.ids.fix(ids, f"broadcast to other channels by {call.path}")
        for ids in whole[1:]:
            self.ids.unite(whole[0], ids)
        return whole[0] if whole else None

    def _kernel_layer(self, call: Call, inputs: list[np.ndarray]) -> np.ndarray | None:
        """What a layer with a kernel makes. It reads its input, masked, or applies its kernel channel by channel."""
        layer, prunable = call.operation, call.path in self._readers
        if len(inputs) != 1 or any(kernel.input_axis is None for kernel in kernels_of(type(layer))):
            return None
        if rides(layer):
            if getattr(layer, "depth_multiplier", None) != 1 or not _is_elementwise(layer):
                return None
            if prunable:
                self._read(call.path, inputs[0])
            self.keeps.setdefault(call.path, []).append(inputs[0])
            return inputs[0]
        if not prunable:
            self.ids.fix(inputs[0], f"read by {call.path}, which is not pruned")
        elif getattr(layer, "groups", 1) != 1:
            self.ids.fix(inputs[0], f"read in groups by {call.path}")
        if prunable:
            self._read(call.path, inputs[0])
        made = self.ids.block(_channels(call.outputs[0]))
        if not _is_elementwise(layer):
            self.ids.fix(made, f"mixed by the activation of {call.path}")
        self.makes.setdefault(call.path, []).append(made)
        return made

    def _read(self, path: str, ids: np.ndarray) -> None:
        """Notes what a layer reads: it has one kernel for all its calls, so that what they read is the same."""
        if path in self.reads:
            self.ids.unite(self.reads[path], ids)
        self.reads[path] = ids


def rides(layer: keras.Layer) -> bool:
    """Whether a layer applies its kernel to each channel by itself: a depthwise convolution."""
    return all(kernel.of(layer).rides for kernel in kernels_of(type(layer)))


def _channels(tensor: Tensor) -> int:
    return (tensor.shape[-1:] or (None,))[0] or 1


def _is_elementwise(layer: keras.Operation) -> bool:
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", None)
    own = getattr(keras.activations, name, None) is activation if name else False
    return activation is None or type(activation) in _PER_CHANNEL_LAYERS or (own and name in ELEMENTWISE_ACTIVATIONS)


def _normalises_each_channel(call: Call) -> bool:
    layer, rank = call.operation, len(call.outputs[0].shape)
    if type(layer) is _layers.BatchNormalization:
        return layer.axis in (-1, rank - 1)
    return (
        type(layer) is _layers.GroupNormalization
        and layer.axis in (-1, rank - 1)
        and layer.groups == _channels(call.outputs[0])
    )


def _reduces_positions(call: Call) -> bool:
    """Whether an operation is a mean, maximum or sum over other axes than the channels."""
    axis, rank = getattr(call.operation, "axis", None), len(call.inputs[0].shape)
    if type(call.operation).__name__ not in _REDUCTIONS or axis is None:
        return False
    return all(a % rank != rank - 1 for a in ([axis] if isinstance(axis, int) else axis))


def _repeated(ids: np.ndarray, output: Tensor) -> np.ndarray | None:
    """Channels after a reshape: in row-major order channel c lands in c, C + c, 2C + c... of a longer last axis."""
    channels = _channels(output)
    return np.tile(ids, channels // len(ids)) if output.shape[-1] and channels % len(ids) == 0 else None
