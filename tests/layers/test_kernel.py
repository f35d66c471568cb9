import keras
import pytest

from harp_tf.layers import Kernel, kernels_of


@pytest.mark.parametrize(
    ("kernel", "shape", "fan_in"),
    [
        (Kernel(), (100, 10), 100),
        (Kernel(), (3, 3, 16, 32), 144),
        (Kernel(output_axes=(-2,)), (3, 3, 32, 16), 144),
        (Kernel(output_axes=(-2, -1)), (5, 5, 16, 2), 25),
        (Kernel(output_axes=(1, 2)), (64, 4, 16), 64),
        (Kernel(output_axes=(0,)), (7,), 1),
    ],
)
def test_fan_in_is_the_receptive_field_times_the_input_channels(kernel, shape, fan_in):
    assert kernel.fan_in(shape) == fan_in


@pytest.mark.parametrize(
    ("equation", "output_shape", "kernel_shape", "fan_in"),
    [
        ("abc,cd->abd", (4, 6), (7, 6), 7),
        ("abc,cde->abde", (4, 2, 6), (7, 2, 6), 7),  # projections of attention into heads
        ("abcd,cde->abe", (4, 5), (2, 7, 5), 14),  # and out of heads
        ("...bc,bcd->...d", (5,), (4, 7, 5), 28),
        ("abc,bcd->abd", (4, 5), (4, 7, 5), 7),  # a matrix per position
    ],
)
def test_fan_in_of_an_einsum_is_what_its_equation_sums_over(equation, output_shape, kernel_shape, fan_in):
    layer = keras.layers.EinsumDense(equation, output_shape)
    layer.build((None, *((4, 2, 7) if "abcd" in equation else (4, 7))))
    assert tuple(layer.kernel.shape) == kernel_shape
    (kernel,) = kernels_of(keras.layers.EinsumDense)
    assert kernel.of(layer).fan_in(kernel_shape) == fan_in
    assert Kernel().of(layer) == Kernel()
