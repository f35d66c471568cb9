"""Free adversarial training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.losses import FreeAdversarialTraining
from harp_tf.types import HarpError

GRAPH = {"compile": {"run_eagerly": False}}


def perturbation(trainer) -> np.ndarray:
    return keras.ops.convert_to_numpy(trainer.perturbation).copy()


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.5)])
def test_free_updates_once_per_replay_and_keeps_its_perturbation(classifier, trainer_of, data, norm, eps):
    network = classifier()
    free = FreeAdversarialTraining(batch_size=48, replays=3)
    trainer = trainer_of(network, free, PGD(eps=eps, norm=norm))
    assert not perturbation(trainer).any()
    trainer.train_on_batch(*data)
    assert int(trainer.optimizer.iterations.numpy()) == 3
    first = perturbation(trainer)
    sizes = np.linalg.norm(first.reshape(48, -1), axis=1) if norm == "l2" else np.abs(first).max((1, 2, 3))
    assert (sizes <= eps + 1e-6).all() and (sizes > 0).all()
    trainer.train_on_batch(*data)
    second = perturbation(trainer)
    assert not np.array_equal(first, second) and np.abs(second).max() <= eps + 1e-6


def test_free_follows_the_algorithm(data):
    """Shafahi et al., algorithm 1, written out for a linear network."""
    images, labels = data
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)])
    weights = network.get_weights()[0].astype("float64")
    trainer = harp_tf.AdversarialModel(network, FreeAdversarialTraining(batch_size=48, replays=3), PGD(eps=0.1))
    trainer.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    delta, pixels = np.zeros((48, 16)), images.reshape(48, 16).astype("float64")
    for _ in range(2):
        trainer.train_on_batch(images, labels)
        for _ in range(3):
            adversarial = np.clip(pixels + delta, 0, 1)
            logits = adversarial @ weights
            p = np.exp(logits - logits.max(1, keepdims=True))
            error = p / p.sum(1, keepdims=True) - np.eye(3)[labels]
            delta = np.clip(delta + 0.1 * np.sign(error @ weights.T), -0.1, 0.1)
            weights -= 0.5 * adversarial.T @ error / 48
    np.testing.assert_allclose(network.get_weights()[0], weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(perturbation(trainer).reshape(48, 16), delta, atol=1e-6)


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"run_eagerly": False}], ids=str)
def test_free_takes_the_smaller_last_batch(classifier, trainer_of, fit, data, options):
    trainer = trainer_of(classifier(), FreeAdversarialTraining(batch_size=36, replays=1), compile=options)
    fit(trainer, batch_size=36)
    rows = np.abs(perturbation(trainer)).max((1, 2, 3))
    assert rows.shape == (36,) and (rows > 0).all()
    before = perturbation(trainer)
    fit(trainer, x=data[0][:12], y=data[1][:12], batch_size=36)
    assert not np.array_equal(perturbation(trainer)[:12], before[:12])
    np.testing.assert_array_equal(perturbation(trainer)[12:], before[12:])


def test_free_refuses_a_larger_batch(classifier, trainer_of, fit):
    for options in ({}, GRAPH):
        trainer = trainer_of(classifier(), FreeAdversarialTraining(batch_size=16), **options)
        with pytest.raises(HarpError, match="A batch is larger than batch_size=16"):
            fit(trainer, batch_size=48)
    step = tf.function(trainer.train_step, input_signature=[(tf.TensorSpec([None, 4, 4, 1]), tf.TensorSpec([None]))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="A batch is larger than batch_size=16"):
        step((tf.zeros([48, 4, 4, 1]), tf.zeros([48])))


def test_free_needs_images_of_a_fixed_size():
    network = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    with pytest.raises(HarpError, match=r"images of the open size \(None, None, 1\)"):
        harp_tf.AdversarialModel(network, FreeAdversarialTraining(batch_size=8), PGD(eps=0.1))
