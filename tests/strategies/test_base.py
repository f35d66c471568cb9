import numpy as np

from harp_tf.strategies import KernelInfo


def test_the_size_of_a_kernel_is_its_number_of_weights():
    assert KernelInfo("conv/kernel", np.zeros((3, 3, 4, 8))).size == 288
