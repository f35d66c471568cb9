"""Removing what makes channels that no layer reads."""

from collections.abc import Mapping

import keras
import numpy as np

from harp_tf.layers.channel_rules import ChannelFlow
from harp_tf.layers.graph import graph_of
from harp_tf.layers.rebuild import walk
from harp_tf.layers.registry import kernels_of

_NORMALISATIONS = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)


def silence_unread_channels(model: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Sets to 0 what makes channels that no layer reads any more: no logit changes.

    That is the part of the kernel and the bias that makes the channel, and gamma and beta of the normalisations that
    hand it on. Layers that were not pruned and frozen normalisations stay as they are.

    Args:
        model: a plain model, which is changed; in its kernels the weights that read those channels are 0 already.
        masks: zeros and ones along the input axis of each layer that was pruned, by path; all ones, of any length,
            for a layer whose input channels are fixed.
    """
    flow = ChannelFlow(graph_of(model), masks)
    unread: set[int] = set()
    for path, ids in flow.reads.items():
        if not masks[path].all():
            unread.update(root for root, kept in zip(flow.ids.roots(ids), masks[path], strict=True) if not kept)
    for path, layer in walk(model):
        calls = flow.makes.get(path) or flow.keeps.get(path, []) if path in masks else []
        if isinstance(layer, _NORMALISATIONS) and layer.trainable:
            calls = flow.keeps.get(path, [])
        if not calls:
            continue
        # A layer that is called twice makes a channel for both calls: it goes when neither is read.
        alive = np.any([[root not in unread for root in flow.ids.roots(ids)] for ids in calls], axis=0)
        for variable, axis in _outputs(layer):
            shape = [1] * len(variable.shape)
            shape[axis] = len(alive)
            variable.assign(keras.ops.convert_to_numpy(variable) * alive.reshape(shape) + 0.0)  # no -0.0


def _outputs(layer: keras.layers.Layer) -> list[tuple[keras.Variable, int]]:
    """The variables of a layer that make its output channels, and their axis of channels."""
    named = [(name, 0) for name in ("bias", "gamma", "beta")]
    for kernel in (kernel.of(layer) for kernel in kernels_of(type(layer))):
        if isinstance(kernel.output_axes, tuple) and not kernel.rides:
            named.append((kernel.name, kernel.output_axes[0]))
    return [(getattr(layer, name), axis) for name, axis in named if getattr(layer, name, None) is not None]
