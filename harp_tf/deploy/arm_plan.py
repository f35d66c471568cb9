"""Where the kernels of a model lie once it is written for ARM (see `arm_rewrite`): upright, or seen in a mirror."""

import dataclasses

import numpy as np
from keras import layers

from harp_tf.layers.graph import Call, Graph, Tensor

_DEPTHWISE = (layers.DepthwiseConv2D, layers.SeparableConv2D)
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
"""The convolutions of one kernel."""
# What computes every pixel from the same pixel of its inputs, if it looks at channels along the last axis only.
_PIXELWISE = (
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Activation, layers.Rescaling, layers.Identity),
    *(layers.BatchNormalization, layers.Normalization, layers.Dropout, layers.SpatialDropout2D),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum, layers.Concatenate),
)
_POOLED = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


@dataclasses.dataclass(frozen=True)
class Window:
    """Where a convolution reads along one axis: output o the pixels stride * o - before and kernel - 1 more behind.

    Attributes:
        size: pixels of the image, not counting what it is padded with.
        kernel: length of the kernel.
        stride: the stride.
        before: rows of padding before the first pixel; negative where the first pixels are not read.
        outputs: length of the result.
    """

    size: int
    kernel: int
    stride: int
    before: int
    outputs: int

    def mirrored(self) -> "Window":
        """The same on the flipped image, with the kernel turned round and the outputs in the opposite order."""
        last = self.stride * (self.outputs - 1) - self.before + self.kernel - 1
        return dataclasses.replace(self, before=last - (self.size - 1))

    def offset(self, kernel: int) -> int | None:
        """Where this kernel lies in one of another, odd length padded by its half; None where that computes less."""
        offset = kernel // 2 - self.before
        fits = 0 <= offset <= kernel - self.kernel and self.outputs == -(-self.size // self.stride)
        return offset if fits else None


@dataclasses.dataclass(frozen=True)
class Placement:
    """The kernel that takes the place of another: its length, by half of which is padded, and where the other lies."""

    kernel: int
    offsets: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is written.

    Attributes:
        mirror: whether the image is flipped and every kernel turned round.
        placements: index of the output of a convolution -> the kernel that takes its place.
    """

    mirror: bool
    placements: dict[int, Placement]

    @property
    def cost(self) -> tuple[int, int]:
        """Convolutions that keep an unfit padding, and length of the kernels of the others."""
        return -len(self.placements), sum(placement.kernel for placement in self.placements.values())


def plan_of(graph: Graph) -> Plan:
    """The better of both ways to look at the image, upright if they are equal; empty where layers are shared."""
    if _shares(graph):
        return Plan(False, {})
    paddings = {c.outputs[0].index: c for c in graph.calls if is_padding(c)}
    plans = []
    for mirror in (False, True):
        placements = {
            call.outputs[0].index: placement
            for call in graph.calls
            if (placement := _placement(call, paddings, mirror)) is not None
        }
        if not mirror or _mirrors(graph, placements):
            plans.append(Plan(mirror, placements))
    return min(plans, key=lambda plan: plan.cost)


def _shares(graph: Graph) -> bool:
    """Whether a layer that might get another kernel or padding is called more than once."""
    changed = [
        id(c.operation) for c in graph.calls if type(c.operation) in (*CONVOLUTIONS, *_DEPTHWISE, layers.ZeroPadding2D)
    ]
    return len(changed) > len(set(changed))


def _placement(call: Call, paddings: dict[int, Call], mirror: bool) -> Placement | None:
    """The kernel that keeps the rules in the place of that of a call; None if the call needs or has none."""
    layer = call.operation
    depthwise = type(layer) in _DEPTHWISE
    if not (depthwise or type(layer) is layers.Conv2D) or layer.data_format != "channels_last":
        return None
    if layer.dilation_rate != (1, 1) or layer.strides not in ((1, 1), (2, 2)):
        return None
    if depthwise and layer.depth_multiplier != 1:
        return None
    # Of full convolutions only the first can be one of the rules.
    if not depthwise and (layer.groups != 1 or layer.strides != (2, 2) or call.inputs[0].shape[-1] not in (1, 3)):
        return None
    windows = _windows(call, paddings.get(call.inputs[0].index))
    if windows is None:
        return None
    for kernel in (3, 5) if depthwise else (3,):
        down, right = ((w.mirrored() if mirror else w).offset(kernel) for w in windows)
        if down is not None and right is not None:
            return Placement(kernel, (down, right))
    return None


def _windows(call: Call, padding: Call | None = None) -> list[Window] | None:
    """Where a convolution reads, down and across, in its input or in what the padding before it reads; None if open."""
    layer, source = call.operation, padding.inputs[0] if padding else call.inputs[0]
    amounts = padding.operation.padding if padding else ((0, 0), (0, 0))
    windows = []
    for axis in (0, 1):
        size, stride = source.shape[1 + axis], layer.strides[axis]
        kernel = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis] + 1
        if size is None:
            return None
        read = size + sum(amounts[axis])
        outputs, before = (read - kernel) // stride + 1, amounts[axis][0]
        if layer.padding == "same":
            outputs = -(-read // stride)
            before += max((outputs - 1) * stride + kernel - read, 0) // 2
        windows.append(Window(size, kernel, stride, before, outputs))
    return windows


def _mirrors(graph: Graph, placements: dict[int, Placement]) -> bool:
    """Whether every call can compute the mirrored result of mirrored images."""
    if len(graph.inputs) != 1 or any(is_image(tensor) for tensor in graph.outputs):
        return False
    return all(
        call.outputs[0].index in placements or _mirrors_itself(call)
        for call in graph.calls
        if any(is_image(tensor) for tensor in call.inputs)
    )


def _mirrors_itself(call: Call) -> bool:
    layer, kind = call.operation, type(call.operation)
    if kind in _PIXELWISE:
        if kind is layers.Rescaling and max(np.ndim(layer.scale), np.ndim(layer.offset)) > 1:
            return False
        axes = np.atleast_1d(getattr(layer, "axis", -1))
        return all(axis in (-1, 3) for axis in axes) and all(len(tensor.shape) == 4 for tensor in call.inputs)
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return False
    if kind in CONVOLUTIONS:
        windows = _windows(call)
        return windows is not None and all(window.mirrored() == window for window in windows)
    return is_padding(call) or kind in _POOLED


def is_padding(call: Call) -> bool:
    """Whether a call puts zeros around an image."""
    return type(call.operation) is layers.ZeroPadding2D and call.operation.data_format == "channels_last"


def is_image(tensor: Tensor) -> bool:
    """Whether a tensor looks different in a mirror."""
    return len(tensor.shape) > 2 and tensor.shape[1:-1] != (1, 1)
