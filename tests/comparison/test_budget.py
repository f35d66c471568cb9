import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf import attacks, losses, training
from harp_tf.comparison import gradient_passes, passes_per_step
from harp_tf.config import RunConfig


@pytest.mark.parametrize(
    "loss, expected", [("natural", 1), ("pgd", 7 + 1), ("trades", 7 + 2), ("mart", 7 + 2), ("free", 4)]
)
def test_passes_of_a_step(loss, expected):
    config = RunConfig(loss=loss, attack_steps=7, replays=4)
    assert passes_per_step(config) == expected
    assert gradient_passes(config, epochs=3, steps_per_epoch=10) == 30 * expected


@pytest.mark.parametrize("loss", ["natural", "pgd", "trades", "mart", "free"])
def test_a_step_makes_as_many_passes_as_it_is_said_to(loss, monkeypatch):
    """Counts the passes through the network that a gradient is taken of, in a step that runs eagerly."""
    recorded = []

    @keras.saving.register_keras_serializable(package="tests.budget")
    class Watched(keras.layers.Dense):
        def call(self, inputs, training=None):
            outputs = super().call(inputs)
            return counted(outputs)

    @tf.custom_gradient
    def counted(outputs):
        def gradient(upstream):
            recorded.append(1)
            return upstream

        return tf.identity(outputs), gradient

    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), Watched(3)])
    config = RunConfig(loss=loss, attack_steps=3, replays=2, batch_size=8)
    trainer = training.AdversarialModel(
        network, losses.get(loss, beta=6.0, batch_size=8, replays=2), attacks.PGD(eps=0.1, steps=3)
    )
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    rng = np.random.default_rng(0)
    images, labels = rng.random((8, 4, 4, 1), np.float32), rng.integers(0, 3, 8)
    trainer.network(images[:1])
    recorded.clear()
    trainer.train_step((tf.constant(images), tf.constant(labels, tf.int32)))
    assert len(recorded) == passes_per_step(config)
