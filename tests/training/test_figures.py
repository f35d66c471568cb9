"""What fit, evaluate and predict report."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD
from harp_tf.layers import pruned_kernels
from harp_tf.losses import FreeAdversarialTraining, cross_entropy

GRAPH = {"compile": {"run_eagerly": False}}
FIGURES = {"loss", "natural_loss", "robust_loss", "natural_accuracy", "adversarial_accuracy"}
SIZE_FIGURES = {"hw_loss", "gamma", "rate"}


def test_every_figure_is_reported_for_arrays_and_datasets(pruned, trainer_of, fit, data):
    expected = FIGURES | SIZE_FIGURES | {"accuracy"}
    trainer = trainer_of(pruned(), metrics=["accuracy"], **GRAPH)
    history = fit(trainer, validation_data=data)
    assert set(history) == expected | {f"val_{name}" for name in expected}
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(48, drop_remainder=True)
    assert set(fit(trainer, x=dataset)) == expected
    results = trainer.evaluate(dataset, return_dict=True, verbose=0)
    assert results == pytest.approx(trainer.evaluate(*data, batch_size=48, return_dict=True, verbose=0))
    assert set(results) == expected
    assert results["accuracy"] == results["natural_accuracy"]


def test_figures_are_those_of_the_network_before_the_step(classifier, trainer_of, data, loss):
    network = classifier()
    images, labels = data
    trainer = trainer_of(network, loss, PGD(eps=0.1, steps=2))
    # A clean pass that belongs to the loss runs in training mode, one that is only reported does not.
    logits = classifier()(images, training=loss in ("natural", "trades", "mart"))
    results = trainer.train_on_batch(images, labels, return_dict=True)
    if isinstance(loss, str):  # free reports the clean figures of its last replay
        natural = float(tf.reduce_mean(cross_entropy(logits, labels)))
        assert results["natural_loss"] == pytest.approx(natural, rel=1e-4)
        assert results["natural_accuracy"] == pytest.approx((logits.numpy().argmax(-1) == labels).mean())
    assert results["loss"] == pytest.approx(results["robust_loss"])
    assert ("adversarial_accuracy" in results) == (loss != "natural")


def test_evaluation_attacks_the_network_with_the_attack_as_it_was_given(classifier, trainer_of, data):
    images, labels = data
    attack = PGD(eps=0.15, steps=3)
    for loss in ("natural", "pgd", "trades", FreeAdversarialTraining(batch_size=48)):
        network = classifier()
        adversarial = attack(network, images, labels, tf.constant([5, 0]))
        results = trainer_of(network, loss, attack, seed=5).evaluate(
            images, labels, batch_size=48, return_dict=True, verbose=0
        )
        right = network(adversarial).numpy().argmax(-1) == labels
        assert results["adversarial_accuracy"] == pytest.approx(right.mean())
        assert results["natural_accuracy"] == pytest.approx((network(images).numpy().argmax(-1) == labels).mean())
        natural = float(tf.reduce_mean(cross_entropy(network(images), labels)))
        assert results["natural_loss"] == pytest.approx(natural, rel=1e-5)


def test_without_an_attack_nothing_is_said_about_robustness(classifier, trainer_of, fit, data):
    trainer = trainer_of(classifier(), "natural", attack=None)
    assert set(fit(trainer)) == FIGURES - {"adversarial_accuracy"}
    assert set(trainer.evaluate(*data, return_dict=True, verbose=0)) == FIGURES - {"adversarial_accuracy"}


def test_evaluation_and_training_count_the_same_loss(pruned, trainer_of, fit, data, set_rates):
    network = pruned(0.9)
    set_rates(network, 0.5)
    trainer = trainer_of(network, learning_rate=0.0)
    fit(trainer, gamma=0.3)
    set_rates(network, 0.5)  # `fit` has projected them
    trainer.gamma.assign(0.3)
    results = trainer.evaluate(*data, batch_size=48, return_dict=True, verbose=0)
    assert results["gamma"] == pytest.approx(0.3)
    assert results["loss"] - results["robust_loss"] == pytest.approx(0.3 * results["hw_loss"], rel=1e-4)


def test_hw_loss_and_rate_follow_their_formulas(pruned, trainer_of, data):
    network = pruned(0.9)
    sizes, rates = np.array([192, 36]), np.array([0.3, 0.6])
    for kernel, rate in zip(pruned_kernels(network), rates):
        kernel.scores.set_rate(float(rate))
    results = trainer_of(network).evaluate(*data, return_dict=True, verbose=0)
    rate = (rates * sizes).sum() / sizes.sum()
    assert results["rate"] == pytest.approx(rate, rel=1e-4)
    assert results["hw_loss"] == pytest.approx(rate / 0.1 - 1, rel=1e-4)


def test_predict_returns_the_logits_of_the_network(pruned, trainer_of, data):
    network = pruned()
    trainer = trainer_of(network, **GRAPH)
    np.testing.assert_allclose(trainer.predict(data[0], verbose=0), network(data[0]), rtol=1e-5, atol=1e-6)
