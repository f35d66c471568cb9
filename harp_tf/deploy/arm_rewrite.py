"""Models written anew so that XNNPACK runs them sparse on ARM (see `arm_sparse`), where the logits stay the same.

The rules want the image padded alike on both sides. Padding 'same' with stride 2 pads an image of even size by 0 and 1:
output o of a 3x3 kernel reads the rows 2o, 2o + 1 and 2o + 2. Seen in a mirror, with the kernel turned round, the same
outputs read the rows 2o - 1, 2o and 2o + 1: padding by 1, of which the far side is never read. So the image is flipped
once, every kernel is turned round, and the average at the end does not see it. What is padded alike already, as with
stride 1, stays so.

Where the mirror does not help, a small kernel moves into a larger one that is zero elsewhere, and a grey channel
is repeated under a kernel that reads only the first. Other networks have no such form.
"""

from typing import Any

import keras
import numpy as np
from keras import layers

from harp_tf.deploy.arm_plan import CONVOLUTIONS, Placement, Plan, is_image, is_padding, plan_of
from harp_tf.deploy.arm_sparse import arm_sparse_report
from harp_tf.deploy.convert import to_tflite
from harp_tf.deploy.verify import keras_logits
from harp_tf.layers.call_names import CallNames
from harp_tf.layers.graph import Call, Graph, Tensor, graph_of
from harp_tf.layers.rebuild import rebuild, require_graph
from harp_tf.types import HarpError

_TOLERANCE = 1e-3  # of the spread of the logits
_CHECKED = 2  # images on which both models are compared


def rewrite_for_arm(model: keras.Model) -> keras.Model:
    """Brings a model into the form that XNNPACK runs sparse on ARM, if there is one that computes the same.

    One layer that does not fit and the whole network runs dense, so nothing is changed unless everything comes to fit.
    The share of zeros does not matter here.

    Args:
        model: a plain Sequential or Functional classifier that `to_tflite` converts; it is not changed.

    Returns:
        A Functional model of the same outputs, up to rounding, nested models opened. The given model where it has that
        form already or has none; `arm_sparse_report` then names the layers in the way.

    Raises:
        HarpError: if the model cannot be converted or copied.
    """
    require_graph(model)
    if _fits(model):
        return model
    written = _written(model)
    if written is None or not _fits(written):
        return model
    _check(model, written)
    return written


def _written(model: keras.Model) -> keras.Model | None:
    """The model in the form that comes nearest; None if none of its paddings can be changed."""
    copy = rebuild(model, lambda path, layer: None)  # its layers go into the new model
    graph = graph_of(copy)
    plan = plan_of(graph)
    return _Writer(copy, graph, plan).written() if plan.placements else None


def _fits(model: keras.Model) -> bool:
    """Whether nothing is in the way but the share of zeros."""
    return {finding.rule for finding in arm_sparse_report(to_tflite(model))} <= {"storage", "zeros"}


class _Writer:
    """Calls the layers of a copied model anew, in the order and on the images of the plan."""

    def __init__(self, model: keras.Model, graph: Graph, plan: Plan):
        self._model, self._graph, self._plan = model, graph, plan
        self._tensors: dict[int, keras.KerasTensor] = {}
        self._names = CallNames()
        self._unpadded: dict[int, Tensor] = {}  # index of what a ZeroPadding2D makes -> what it reads

    def written(self) -> keras.Model:
        """The new model."""
        graph = self._graph
        image = keras.Input(
            batch_shape=graph.inputs[0].shape,
            dtype=graph.inputs[0].dtype,
            name=self._names.unique(self._model.inputs[0].name),
        )
        seen = keras.ops.flip(image, axis=(1, 2)) if self._plan.mirror else image
        self._tensors[graph.inputs[0].index] = seen
        for call in graph.calls:
            results = keras.tree.flatten(self._called(call))
            self._tensors.update((tensor.index, result) for tensor, result in zip(call.outputs, results, strict=True))
        return keras.Model(image, self._tensors[graph.outputs[0].index], name=self._model.name)

    def _called(self, call: Call) -> Any:
        layer, mirror = call.operation, self._plan.mirror
        mirrored_padding = mirror and is_padding(call)  # every call of one makes a layer
        layer.name = self._names.of(call, shared=not mirrored_padding)
        placement = self._plan.placements.get(call.outputs[0].index)
        if placement is not None:
            return self._placed(call, placement)
        args, kwargs = keras.tree.map_structure(
            lambda a: self._tensors[a.index] if isinstance(a, Tensor) else a, (call.args, call.kwargs)
        )
        if is_padding(call):
            self._unpadded[call.outputs[0].index] = call.inputs[0]
            if mirrored_padding:
                layer = layers.ZeroPadding2D([amounts[::-1] for amounts in layer.padding], name=layer.name)
        if type(layer) in CONVOLUTIONS and mirror and is_image(call.inputs[0]):
            kernel, *others = layer.get_weights()
            layer.set_weights([kernel[::-1, ::-1], *others])
        return layer(*args, **kwargs)

    def _placed(self, call: Call, placement: Placement) -> keras.KerasTensor:
        layer, size = call.operation, placement.kernel
        x = self._tensors[self._unpadded.get(call.inputs[0].index, call.inputs[0]).index]
        kernel, *others = layer.get_weights()
        (down, right), (height, width) = placement.offsets, kernel.shape[:2]
        larger = np.zeros((size, size, *kernel.shape[2:]), kernel.dtype)
        larger[down : down + height, right : right + width] = self._seen(kernel)
        if type(layer) is layers.Conv2D and x.shape[-1] == 1:
            x = layers.Concatenate(name=self._names.unique(f"{layer.name}_arm_colours"))([x, x, x])
            larger = np.concatenate([larger, np.zeros_like(larger), np.zeros_like(larger)], axis=2)
        if layer.strides != (1, 1):
            x = layers.ZeroPadding2D(size // 2, name=self._names.unique(f"{layer.name}_arm_pad"))(x)
        config = layer.get_config() | {"activation": layer.activation}  # a user's own function has no other name
        changes = {"kernel_size": size, "padding": "same" if layer.strides == (1, 1) else "valid"}
        if type(layer) is not layers.SeparableConv2D:
            return _called(type(layer).from_config(config | changes), x, larger, *others)
        common = {key: config[key] for key in ("dtype", "trainable")}
        ends = {key: config[key] for key in ("filters", "use_bias", "activation")}
        first = layers.DepthwiseConv2D(
            **changes,
            strides=layer.strides,
            use_bias=False,
            name=self._names.unique(f"{layer.name}_depthwise"),
            **common,
        )
        second = layers.Conv2D(kernel_size=1, **ends, name=self._names.unique(f"{layer.name}_pointwise"), **common)
        return _called(second, _called(first, x, larger), *others)

    def _seen(self, kernel: np.ndarray) -> np.ndarray:
        return kernel[::-1, ::-1] if self._plan.mirror else kernel


def _called(layer: keras.layers.Layer, x: keras.KerasTensor, *weights: np.ndarray) -> keras.KerasTensor:
    """Calls a new layer with the given weights."""
    result = layer(x)
    layer.set_weights(weights)
    return result


def _check(model: keras.Model, written: keras.Model) -> None:
    images = np.random.default_rng(0).random((_CHECKED, *model.inputs[0].shape[1:]), np.float32)
    one, other = keras_logits(model, images), keras_logits(written, images)
    difference = float(np.abs(one - other).max() / (np.std(one) or 1.0))
    if not difference <= _TOLERANCE:  # NaN is not
        raise HarpError(
            f"Expected model {model.name!r} written for ARM to compute the same outputs, found a difference of "
            f"{difference:.1e} of their spread. Export it without --arm_sparse, and please report this."
        )
