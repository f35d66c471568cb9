"""A tiny classifier, its pruned form, learnable images and a quiet trainer."""

import keras
import numpy as np
import pytest

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.layers import pruned_kernels
from harp_tf.losses import FreeAdversarialTraining


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


@pytest.fixture(
    params=["natural", "pgd", "trades", "mart", FreeAdversarialTraining(batch_size=48, replays=2)],
    ids=["natural", "pgd", "trades", "mart", "free"],
)
def loss(request):
    """Every loss in turn, for batches of 48."""
    return request.param


@pytest.fixture
def set_rates():
    """A function that gives all kernels of a network one rate."""

    def set_all(network, rate: float) -> None:
        for kernel in pruned_kernels(network):
            kernel.scores.set_rate(rate)

    return set_all


def _weights_of(network) -> dict[str, np.ndarray]:
    return {v.path: keras.ops.convert_to_numpy(v).copy() for v in network.variables}


@pytest.fixture
def weights_of():
    """A function that copies the variables of a network: {path: array}."""
    return _weights_of


@pytest.fixture
def changed():
    """A function that names what differs between two results of `weights_of`."""
    return lambda before, after: {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.fixture
def assert_equal_weights():
    """A function that compares two networks variable by variable, bit for bit unless given a tolerance."""

    def check(one, other, **tolerance):
        first, second = _weights_of(one), _weights_of(other)
        assert list(first) == list(second)
        for path, a in first.items():
            if tolerance:
                np.testing.assert_allclose(a, second[path], err_msg=path, **tolerance)
            else:
                np.testing.assert_array_equal(a, second[path], err_msg=path)

    return check
