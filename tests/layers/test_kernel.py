import pytest

from harp_tf.layers import Kernel


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
