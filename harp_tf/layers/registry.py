"""Which layers can be pruned: their kernels, and the pruned class that takes their place."""

import keras

from harp_tf.layers.kernel import Kernel, einsum_output_axes
from harp_tf.layers.pruned import PrunedLayer, make_pruned_class
from harp_tf.types import HarpError

TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
"""Keras' transposed convolutions: the output channels are the last but one axis of their kernels."""

_PRUNED: dict[type, type[PrunedLayer]] = {}


def register_kernels(layer_class: type, *kernels: str | Kernel) -> None:
    """Makes a layer class prunable.

    Call it where the class is defined: a saved pruned model loads only where it has been called.

    Args:
        layer_class: a subclass of keras.layers.Layer that creates its kernels in `build`.
        *kernels: names of the attributes that hold the kernels, or `Kernel`s where the last axis is not the
            output axis.

    Raises:
        HarpError: if `layer_class` is not a Keras layer class, no kernel is named, or another class is registered
            under the same name.
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise HarpError(f"register_kernels expects a subclass of keras.layers.Layer, received {layer_class!r}.")
    if not kernels:
        raise HarpError(f"register_kernels({layer_class.__name__}) names no kernel; pass e.g. 'kernel'.")
    pruned = make_pruned_class(layer_class, [k if isinstance(k, Kernel) else Kernel(k) for k in kernels])
    for other in _PRUNED.values():
        if other.__name__ == pruned.__name__ and _origin(other.base_class) != _origin(layer_class):
            raise HarpError(
                f"A layer class {layer_class.__name__} is registered already, from {other.base_class.__module__}. Give "
                "yours a name of its own with @keras.saving.register_keras_serializable('your_package')."
            )
    _PRUNED[layer_class] = keras.saving.register_keras_serializable("harp_tf")(pruned)


def kernels_of(layer_class: type) -> tuple[Kernel, ...]:
    """The prunable kernels of exactly this layer class, or () if it is not registered."""
    return _PRUNED[layer_class].kernels if layer_class in _PRUNED else ()


def pruned_class(layer_class: type) -> type[PrunedLayer]:
    """The pruned form of a registered layer class: a subclass of it and of `PrunedLayer`, known to Keras' saving.

    Raises:
        HarpError: if no kernels are registered for `layer_class`.
    """
    if layer_class not in _PRUNED:
        raise HarpError(
            f"No prunable kernels are known for {layer_class.__name__}. Register them with "
            f"harp_tf.register_kernels({layer_class.__name__}, 'kernel')."
        )
    return _PRUNED[layer_class]


def _origin(cls: type) -> tuple[str, str]:
    # A class that was defined anew, as in a notebook, comes from the same place.
    return cls.__module__, cls.__qualname__


for _layer in (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D):
    register_kernels(_layer, Kernel(input_axis=-2))
register_kernels(keras.layers.EinsumDense, Kernel(output_axes=einsum_output_axes))
for _layer in TRANSPOSED:
    register_kernels(_layer, Kernel(output_axes=(-2,), input_axis=-1))
for _layer in (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D):
    register_kernels(_layer, Kernel(output_axes=(-2, -1), input_axis=-2))
for _layer in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
    depthwise = Kernel("depthwise_kernel", output_axes=(-2, -1), input_axis=-2)
    register_kernels(_layer, depthwise, Kernel("pointwise_kernel", input_axis=-2))
