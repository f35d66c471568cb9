"""Regularisers of the network, weights of samples and classes."""

import dataclasses

import keras
import numpy as np
import pytest

from harp_tf.attacks import PGD
from harp_tf.losses import LossTerms, RobustLoss, cross_entropy
from harp_tf.types import HarpError


def test_the_networks_own_losses_are_counted_once(classifier, trainer_of, data, loss):
    network = classifier(
        kernel_regularizer=keras.regularizers.L2(0.03), activity_regularizer=keras.regularizers.L1(0.01)
    )
    images, labels = data
    attack = PGD(eps=0.0, steps=3)
    expected = 0.03 * (network.layers[1].kernel.numpy() ** 2).sum()
    hidden = network.layers[1](network.layers[0](images)).numpy()
    expected += 0.01 * np.abs(hidden).sum() / 48  # Keras divides it by the batch
    trainer = trainer_of(network, loss, attack, learning_rate=0.0)
    results = trainer.train_on_batch(images, labels, return_dict=True)
    assert results["loss"] - results["robust_loss"] == pytest.approx(expected, rel=1e-4)
    results = trainer.evaluate(images, labels, batch_size=48, return_dict=True, verbose=0)
    assert results["loss"] - results["robust_loss"] == pytest.approx(expected, rel=1e-4)


def test_the_networks_own_losses_are_minimised(classifier, trainer_of, data):
    norms = []
    for factor in (0.0, 1.0):
        network = classifier(kernel_regularizer=keras.regularizers.L2(factor))
        trainer_of(network, learning_rate=0.05).train_on_batch(*data)
        norms.append(np.linalg.norm(network.layers[1].kernel.numpy()))
    assert norms[1] < 0.95 * norms[0]


@pytest.mark.parametrize("shape", [(48,), (48, 1)])
def test_sample_weights_weigh_the_loss_as_in_keras(classifier, trainer_of, data, shape):
    images, labels = data
    weights = np.linspace(0.0, 2.0, 48, dtype="float32")
    network = classifier()
    attack = PGD(eps=0.0, steps=1)
    values = cross_entropy(network(images, training=True), labels).numpy()
    network = classifier()
    results = trainer_of(network, "pgd", attack).train_on_batch(
        images, labels, sample_weight=weights.reshape(shape), return_dict=True
    )
    assert results["loss"] == pytest.approx((values * weights).sum() / 48, rel=1e-4)
    assert results["robust_loss"] == pytest.approx((values * weights).sum() / weights.sum(), rel=1e-4)


def test_images_of_weight_zero_do_not_count(classifier, trainer_of, fit, data, assert_equal_weights):
    images, labels = data
    weights = (labels == 0).astype("float32")
    networks = [classifier(), classifier()]
    # Without batch statistics an image of weight 0 leaves no trace: its label may be anything.
    for network, wrong in zip(networks, (False, True)):
        network.layers[2].trainable = False
        given = np.where(wrong & (labels != 0), 3 - labels, labels)
        fit(trainer_of(network), x=images, y=given, sample_weight=weights, batch_size=48)
    assert_equal_weights(*networks)


def test_class_weights_are_sample_weights(classifier, trainer_of, fit, data, assert_equal_weights):
    images, labels = data
    by_class, by_sample = classifier(), classifier()
    fit(trainer_of(by_class), class_weight={0: 0.5, 1: 1.0, 2: 3.0})
    weights = np.array([0.5, 1.0, 3.0])[labels]
    fit(trainer_of(by_sample), x=images, y=labels, sample_weight=weights, batch_size=48)
    assert_equal_weights(by_class, by_sample)


def own_loss(decorate):
    """A loss of a user's with a setting: one whose constructor is written by hand, or a dataclass."""

    class Weighed(RobustLoss):
        def __call__(self, predict, images, adversarial, labels):
            logits = predict(adversarial)
            return LossTerms(self.factor * cross_entropy(logits, labels), None, logits)

    if decorate:
        Weighed.__annotations__ = {"factor": float}
        return dataclasses.dataclass(frozen=True)(Weighed)
    Weighed.__init__ = lambda self, factor=2.0: setattr(self, "factor", factor)
    return Weighed


def test_a_loss_of_ones_own_is_saved_with_its_settings_or_not_at_all(classifier, trainer_of, fit, tmp_path):
    trainer = trainer_of(classifier(), own_loss(True)(5.0))
    fit(trainer)
    trainer.save(tmp_path / "a.keras")
    assert keras.saving.load_model(tmp_path / "a.keras").robust_loss.factor == 5.0
    trainer = trainer_of(classifier(), own_loss(False)(5.0))
    fit(trainer)
    with pytest.raises(HarpError, match="Weighed cannot be saved.*dataclass"):
        trainer.save(tmp_path / "b.keras")
