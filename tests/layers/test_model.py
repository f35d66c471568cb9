"""Reading the pruned kernels of a model."""

import numpy as np
import pytest

from harp_tf.compression import rate_from_logit
from harp_tf.layers import (
    masked_kernels,
    prune,
    pruned_kernels,
    pruning_spec,
    rate_table,
)
from harp_tf.types import HarpError, PruningSpec
from tests.layers.nets import SIZES, small_net, trained


def test_kernels_in_the_order_of_the_network():
    model = prune(small_net(), 0.9, verbose=False)
    kernels = pruned_kernels(model)
    assert [k.path for k in kernels] == ["conv1/kernel", "conv2/kernel", "dense1/kernel", "dense2/kernel"]
    assert [k.scores.size for k in kernels] == SIZES
    for kernel in kernels:
        assert kernel.variable is kernel.layer.kernel
        assert kernel.scores is kernel.layer.kernel_scores[0]
    assert pruned_kernels(small_net()) == []


def test_the_spec_of_a_model():
    model = prune(small_net(), 0.95, mode="rate", budget="flops", floor_factor=0.2, verbose=False)
    assert pruning_spec(model) == PruningSpec(0.95, "rate", "flops", 0.2)
    with pytest.raises(HarpError, match=r"has no pruned layers. Wrap it first: harp_tf.prune\(model, target_sparsity"):
        pruning_spec(small_net())


def test_rate_table():
    model = trained(prune(small_net(), 0.9, verbose=False))
    table = rate_table(model)
    assert [row["weights"] for row in table.values()] == SIZES
    for kernel in pruned_kernels(model):
        row = table[kernel.path]
        assert row["rate"] == float(rate_from_logit(kernel.scores.logit.value, 0.01))
        assert row["kept"] == np.ceil(row["rate"] * row["weights"]) == kernel.scores.mask().numpy().sum()


def test_masked_kernels_of_the_whole_model():
    model = trained(prune(small_net(), 0.9, verbose=False))
    kernels = masked_kernels(model)
    assert len(kernels) == 4
    for kernel in pruned_kernels(model):
        expected = kernel.variable.numpy() * kernel.scores.mask().numpy()
        np.testing.assert_array_equal(kernels[id(kernel.variable)], expected)
