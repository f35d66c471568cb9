import numpy as np

from harp_tf.strategies import KernelInfo, uniform


def test_every_kernel_gets_the_overall_rate():
    kernels = [KernelInfo("a/kernel", np.ones((3, 3, 1, 8))), KernelInfo("b/kernel", np.ones((100, 10)))]
    assert uniform(kernels, 0.05) == {"a/kernel": 0.05, "b/kernel": 0.05}
