"""tfmot's own pruning behind the interface of all methods."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from harp_tf import layers
from harp_tf.baselines import tfmot
from harp_tf.types import HarpError
from tests.baselines.nets import SIZES, classifier, fitted, masks, wrapped

pytest.importorskip("tensorflow_model_optimization")


@pytest.mark.parametrize("loss", ["natural", pytest.param("trades", marks=pytest.mark.slow)])
def test_the_masks_are_tfmots_at_the_final_step(loss):
    network = wrapped()
    trainer = fitted(tfmot.TfmotTraining, network, epochs=4, loss=loss)
    twins = [trainer._twin.layers[id(kernel.layer)] for kernel in layers.pruned_kernels(network)]
    for kernel, twin in zip(layers.pruned_kernels(network), twins, strict=True):
        ((weight, mask, threshold),) = twin.pruning_vars
        np.testing.assert_array_equal(masks(network)[kernel.path], np.asarray(mask) != 0)
        assert np.asarray(mask).sum() == SIZES[kernel.path] // 4 and float(threshold) > 0
        # UpdatePruningStep has masked the weights at the end of the epoch, and the network has them.
        np.testing.assert_array_equal(kernel.variable, weight)
        assert not np.asarray(weight)[~masks(network)[kernel.path]].any()
    assert [int(twin.pruning_step) for twin in twins] == [16] * 3


def test_sparsity_rises_along_tfmots_schedule_until_three_quarters():
    network = wrapped()
    kept = []

    class Watched(tfmot.TfmotTraining):
        def evaluate(self, *args, **kwargs):
            figures = super().evaluate(*args, **kwargs)
            kept.append(sum(int(mask.numpy().sum()) for mask in self.masks))
            return figures

    fitted(Watched, network, epochs=4)
    # After 4, 8, 12 and 16 of 16 steps, with the end at step 12: 1 - 0.75 (1 - (1 - t)^3) of each layer.
    for count, done in zip(kept, (4 / 12, 8 / 12, 1, 1), strict=True):
        rate = 1 - 0.75 * (1 - (1 - done) ** 3)
        assert count == sum(round(rate * size) for size in SIZES.values())
    assert kept[-1] == layers.budget_of(network).permitted


def test_training_moves_weights_and_statistics_of_the_network():
    network = wrapped()
    before = network.get_weights()
    fitted(tfmot.TfmotTraining, network)
    for layer, old in zip(("conv", "norm", "hidden", "logits"), (0, 0, 0, 0)):
        assert any(
            (np.asarray(v) != b).any()
            for v, b in zip(network.weights, before)
            if f"{layer}/" in v.path and v.name not in ("scores", "rate_logit")
        ), (layer, old)


def test_what_tfmot_does_not_prune_is_named():
    dense = keras.Sequential([keras.Input((4, 4, 1)), kl.DepthwiseConv2D(3, name="deep"), kl.Flatten(), kl.Dense(3)])
    network = layers.prune(dense, 0.5, mode="score", verbose=False)
    with pytest.raises(HarpError, match="tfmot prunes no DepthwiseConv2D like 'deep'.*--skip=deep"):
        tfmot.check(network, dense)
    tfmot.check(layers.prune(dense, 0.5, mode="score", skip="deep", verbose=False), dense)
    tfmot.check(wrapped(), classifier())
