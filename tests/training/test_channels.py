"""Training by channels: readers follow the first one, rates fall, the promise holds."""

import keras
import numpy as np
import pytest

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.layers import budget_of, fixed_cost, kernel_costs, kernel_nonzeros, pruned_kernels, set_stage, strip
from harp_tf.training import KeepBest


def small_net() -> keras.Model:
    """A convolution, a residual block and a depthwise layer on images of 8 x 8."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", name="stem")(image)
    y = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(keras.layers.ReLU()(x))
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn")(y))
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    x = keras.layers.Add()([x, keras.layers.Conv2D(8, 1, name="project")(y)])
    return keras.Model(image, keras.layers.Dense(3, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))


def images_of_three_kinds(number=48):
    draws = np.random.default_rng(0)
    labels = np.arange(number) % 3
    return (draws.random((number, 8, 8, 1)) * 0.5 + labels[:, None, None, None] / 6).astype(np.float32), labels


def trained(epochs=2, gamma=2.0, mode="harp", jit_compile=False, callbacks=(), **options):
    network = harp_tf.prune(
        small_net(),
        0.5,
        granularity="channel",
        budget="flops",
        mode=mode,
        initial_rate=0.9 if mode == "harp" else None,
        channel_multiple=1,
        verbose=False,
    )
    trainer = harp_tf.AdversarialModel(network, "pgd", PGD(eps=0.05, steps=1))
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=jit_compile)
    images, labels = images_of_three_kinds()
    drive = [] if mode == "score" else [harp_tf.StepwiseRegularization(gamma)]
    return (
        network,
        trainer,
        lambda: trainer.fit(
            images, labels, batch_size=8, epochs=epochs, verbose=0, callbacks=[*callbacks, *drive], **options
        ),
    )


class FollowersEqualTheirLeader(keras.callbacks.Callback):
    """After every batch, bit for bit; keeps the rates that it sees."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.overall_rate()))
        for kernel in pruned_kernels(self.model.network):
            for copy in kernel.copies:
                np.testing.assert_array_equal(copy.scores, kernel.scores.scores)
                assert float(copy.logit) == float(kernel.scores.logit)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_epochs_lower_the_rate_and_all_readers_follow(jit_compile):
    watch = FollowersEqualTheirLeader()
    network, trainer, fit = trained(callbacks=[watch], jit_compile=jit_compile)
    before = {k.path: np.array(k.scores.scores) for k in pruned_kernels(network)}
    assert sum(len(k.copies) for k in pruned_kernels(network)) == 2
    fit()
    assert len(watch.rates) == 12 and watch.rates[-1] < watch.rates[0] - 0.05
    for kernel in pruned_kernels(network):
        assert np.abs(before[kernel.path] - np.array(kernel.scores.scores)).max() > 0
    assert budget_of(network).met  # `fit` has projected what exceeded it
    plain = strip(network)
    images, _ = images_of_three_kinds()
    np.testing.assert_allclose(plain(images), network(images), rtol=1e-5, atol=1e-5)


def test_all_readers_follow_scores_that_the_optimiser_averages():
    network, trainer, fit = trained(epochs=1, mode="score")
    trainer.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    fit()
    for kernel in pruned_kernels(network):
        for copy in kernel.copies:
            np.testing.assert_array_equal(copy.scores, kernel.scores.scores)


def test_the_penalty_counts_what_is_never_removed():
    network, trainer, _ = trained()
    costs, fixed = kernel_costs(network), fixed_cost(network)
    rates = [float(kernel.scores.rate()) for kernel in pruned_kernels(network)]
    expected = (np.dot(rates, costs) + fixed) / (sum(costs) + fixed)
    assert float(trainer.overall_rate()) == pytest.approx(expected, rel=1e-5)
    assert float(trainer.hw_loss()) == pytest.approx(expected / 0.5 - 1, rel=1e-4)


def test_scores_alone_and_then_the_weights():
    network, trainer, fit = trained(epochs=1, mode="score")
    counts = {kernel.path: kernel.scores.kept() for kernel in pruned_kernels(network)}
    fit()
    assert {kernel.path: kernel.scores.kept() for kernel in pruned_kernels(network)} == counts
    left = kernel_nonzeros(strip(network))
    set_stage(network, "finetune")
    trainer = harp_tf.AdversarialModel(network, "natural")
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    images, labels = images_of_three_kinds()
    trainer.fit(images, labels, batch_size=8, epochs=1, verbose=0)
    assert kernel_nonzeros(strip(network)) == left


def test_the_best_epoch_keeps_its_readers_together():
    best = KeepBest()
    network, _, fit = trained(callbacks=[best], validation_data=images_of_three_kinds(12))
    fit()
    assert best.best is not None and budget_of(network).met
    for kernel in pruned_kernels(network):
        assert all(float(copy.logit) == float(kernel.scores.logit) for copy in kernel.copies)
