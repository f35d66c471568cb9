"""Which layers have kernels that can be pruned."""

import dataclasses

import keras

from harp_tf.types import HarpError


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One prunable kernel of a layer class.

    Attributes:
        name: attribute of the layer that holds the kernel variable.
        output_axes: axes of the kernel that count outputs; all others are inputs, receptive field included.
    """

    name: str = "kernel"
    output_axes: tuple[int, ...] = (-1,)

    def fan_in(self, shape: tuple[int, ...]) -> int:
        """Number of weights that feed one output, for a kernel of this shape."""
        outputs = {axis % len(shape) for axis in self.output_axes}
        fan = 1
        for axis, length in enumerate(shape):
            fan *= 1 if axis in outputs else length
        return fan


_KERNELS: dict[type, tuple[Kernel, ...]] = {}


def register_kernels(layer_class: type, *kernels: str | Kernel) -> None:
    """Makes a layer class prunable.

    Args:
        layer_class: a subclass of keras.layers.Layer that creates its kernels in `build`.
        *kernels: names of the attributes that hold the kernels, or `Kernel`s where the last axis is not the
            output axis.

    Raises:
        HarpError: if `layer_class` is not a Keras layer class or no kernel is named.
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise HarpError(
            f"register_kernels expects a subclass of keras.layers.Layer, received {layer_class!r}."
        )
    if not kernels:
        raise HarpError(f"register_kernels({layer_class.__name__}) names no kernel; pass e.g. 'kernel'.")
    _KERNELS[layer_class] = tuple(k if isinstance(k, Kernel) else Kernel(k) for k in kernels)


def kernels_of(layer_class: type) -> tuple[Kernel, ...]:
    """The prunable kernels of exactly this layer class, or () if it is not registered."""
    return _KERNELS.get(layer_class, ())


_TRANSPOSED = Kernel("kernel", output_axes=(-2,))

for _layer_class in (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D):
    register_kernels(_layer_class, "kernel")
for _layer_class in (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
):
    register_kernels(_layer_class, _TRANSPOSED)
for _layer_class in (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D):
    register_kernels(_layer_class, Kernel("kernel", output_axes=(-2, -1)))
for _layer_class in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
    register_kernels(
        _layer_class, Kernel("depthwise_kernel", output_axes=(-2, -1)), Kernel("pointwise_kernel")
    )
