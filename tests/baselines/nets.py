"""A tiny classifier, wrapped for methods that train weights, and images it can learn."""

import keras
import numpy as np

from harp_tf import layers
from harp_tf.attacks import PGD


def classifier(seed=0) -> keras.Sequential:
    """16 pixels -> 2x2x4 channels with batch norm -> 12 hidden units -> 3 classes: 36 + 192 + 36 prunable weights."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="conv"),
            keras.layers.BatchNormalization(momentum=0.5, name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(12, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ],
        name="classifier",
    )


SIZES = {"conv/kernel": 36, "hidden/kernel": 192, "logits/kernel": 36}


def wrapped(sparsity=0.75, seed=0, **settings) -> keras.Model:
    """The classifier with masks that keep its largest weights, its weights set to be trained."""
    network = layers.prune(classifier(seed), sparsity, mode="score", verbose=False, **settings)
    layers.set_stage(network, "finetune")
    return network


def images(count=64, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 4, 4, 1] whose class is the brightest third of their rows of pixels, and the classes."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 3, count)
    pictures = 0.3 * draws.random((count, 4, 4, 1), np.float32)
    pictures[np.arange(count), labels] += 0.6
    return pictures.astype("float32"), labels.astype("int32")


def fitted(trainer_of, network, epochs=2, loss="natural", rounds=1, **settings):
    """A trainer after some epochs of four steps a round, which are traced much faster without an attack."""
    attack = None if loss == "natural" else PGD(eps=0.05, steps=1)
    trainer = trainer_of(network, loss, attack, **settings)
    trainer.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    batch = 16
    pictures, labels = (np.concatenate([array] * rounds) for array in images(4 * batch))
    trainer.fit(
        pictures,
        labels,
        batch_size=batch,
        epochs=epochs,
        steps_per_epoch=4 * rounds,
        shuffle=False,
        verbose=0,
        validation_data=images(seed=1),
    )
    return trainer


def masks(network) -> dict[str, np.ndarray]:
    """The masks of a wrapped network by path, as booleans."""
    return {kernel.path: np.asarray(kernel.scores.mask()) != 0 for kernel in layers.pruned_kernels(network)}
