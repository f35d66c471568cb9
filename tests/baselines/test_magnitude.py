"""One-shot magnitude pruning, per layer and over all layers."""

import keras
import numpy as np
import pytest

from harp_tf import baselines, layers
from harp_tf.baselines.magnitude import global_rates, keep_heaviest
from harp_tf.strategies import KernelInfo
from tests.baselines.nets import SIZES, classifier, masks


def infos(*arrays):
    return [KernelInfo(f"k{i}", np.asarray(a, np.float32)) for i, a in enumerate(arrays)]


def test_a_global_cut_by_hand():
    kernels = infos([0.9, -0.8, 0.1, 0.2], [[0.5, -0.7], [0.05, 0.3]], [0.01, 0.02])
    # Five of ten: the largest of each kernel (0.9, 0.7, 0.02), and of the others 0.8 and 0.5.
    assert global_rates(kernels, 0.5) == {"k0": 2 / 4, "k1": 2 / 4, "k2": 1 / 2}
    assert global_rates(kernels, 0.1) == {"k0": 1 / 4, "k1": 1 / 4, "k2": 1 / 2}  # no kernel loses its last weight
    assert global_rates(infos([1.0] * 6, [1.0] * 4), 0.3) == {"k0": 2 / 6, "k1": 1 / 4}  # ties keep no more than asked


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_lwm_is_a_threshold_over_all_kernels(sparsity):
    dense = classifier()
    network = layers.prune(dense, sparsity, mode="score", strategy=global_rates, verbose=False)
    keep_heaviest(network, seed=0)
    weights = {path: np.abs(np.asarray(dense.get_layer(path.split("/")[0]).kernel)) for path in SIZES}
    keep = int((1 - sparsity) * sum(SIZES.values()) + 1e-9)
    threshold = np.sort(np.concatenate([w.ravel() for w in weights.values()]))[-keep]
    for path, mask in masks(network).items():
        np.testing.assert_array_equal(mask, weights[path] >= threshold)
    assert sum(mask.sum() for mask in masks(network).values()) == keep


def test_lwm_layer_keeps_the_largest_of_each_layer():
    dense = classifier()
    network = layers.prune(dense, 0.75, mode="score", verbose=False)
    baselines.METHODS["lwm_layer"].start(network, 0)
    for path, mask in masks(network).items():
        weights = np.abs(np.asarray(dense.get_layer(path.split("/")[0]).kernel))
        assert mask.sum() == SIZES[path] // 4
        assert weights[mask].min() > weights[~mask].max()


def test_one_shot_methods_leave_their_weights_alone():
    dense = classifier()
    for name in ("lwm", "lwm_layer", "random"):
        method = baselines.METHODS[name]
        assert method.one_shot
        network = layers.prune(dense, 0.75, mode="score", verbose=False)
        method.start(network, 3)
        for kernel in layers.pruned_kernels(network):
            original = dense.get_layer(kernel.layer.name).kernel
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel.variable), np.asarray(original))
