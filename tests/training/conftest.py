"""A tiny classifier, its pruned form, learnable images and a quiet trainer."""

import keras
import numpy as np
import pytest

import harp_tf
from harp_tf.attacks import PGD


def make_classifier(seed=0, **dense) -> keras.Sequential:
    """16 pixels -> 12 hidden units with batch norm -> 3 classes; `dense` goes to the hidden layer."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(12, name="hidden", **dense),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Dense(3, name="logits"),
        ],
        name="classifier",
    )


ATTACK = PGD(eps=0.1, steps=2)


def make_trainer(network, loss="pgd", attack=ATTACK, *, learning_rate=0.1, metrics=None, **settings):
    """A compiled trainer; eager unless said otherwise, which is faster for a few steps."""
    options = {"run_eagerly": True, **settings.pop("compile", {})}
    optimizer = settings.pop("optimizer", None) or keras.optimizers.SGD(learning_rate, momentum=0.9)
    trainer = harp_tf.AdversarialModel(network, loss, attack, **settings)
    trainer.compile(optimizer, metrics=metrics, **options)
    return trainer


@pytest.fixture
def classifier():
    """A function that builds the tiny classifier."""
    return make_classifier


@pytest.fixture
def pruned():
    """A function that builds the tiny classifier, pruned to one half of its 228 weights."""

    def build(target_sparsity=0.5, seed=0, **settings):
        return harp_tf.prune(make_classifier(seed), target_sparsity, verbose=False, **settings)

    return build


@pytest.fixture
def trainer_of():
    """A function that wraps a network into a compiled trainer."""
    return make_trainer


@pytest.fixture
def data():
    """48 images of three kinds (bright top, middle or bottom) and their classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = generator.uniform(0.0, 0.6, size=(48, 4, 4, 1))
    for image, label in zip(images, labels):
        image[label : label + 2] += 0.35
    return images.astype("float32"), labels.astype("int32")


@pytest.fixture
def fit(data):
    """A function that fits a trainer quietly on the images, in order and as one batch, with what it needs."""

    def run(trainer, epochs=1, callbacks=(), gamma=0.1, batch_size=48, x=None, y=None, **settings):
        if trainer.learns_rates:
            callbacks = [*callbacks, harp_tf.StepwiseRegularization(gamma)]
        if x is None:
            x, y = data
        if y is not None:
            settings["batch_size"] = batch_size
        settings = {"shuffle": False, "verbose": 0, **settings}
        return trainer.fit(x, y, epochs=epochs, callbacks=list(callbacks), **settings).history

    return run
