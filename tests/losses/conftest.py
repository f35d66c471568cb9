"""Two fixed passes of an imaginary network, and the loss terms that a loss makes of them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

LABELS = np.array([0, 2, 1, 3, 3, 0])


@dataclasses.dataclass
class Passes:
    """Logits of clean and adversarial images; `predict` looks them up and remembers what it was asked."""

    natural: tf.Tensor
    adversarial: tf.Tensor
    asked: list[str] = dataclasses.field(default_factory=list)

    def predict(self, images):
        which = "clean" if float(images[0, 0]) == 0.0 else "adversarial"
        self.asked.append(which)
        return self.natural if which == "clean" else self.adversarial

    def terms(self, loss):
        clean = tf.zeros([len(self.natural), 3])
        return loss(self.predict, clean, clean + 1.0, tf.constant(LABELS[: len(self.natural)]))

    def gradients(self, loss):
        """Gradients of the summed loss with respect to both passes' logits; None where there is none."""
        with tf.GradientTape() as tape:
            tape.watch([self.natural, self.adversarial])
            total = tf.reduce_sum(self.terms(loss).robust)
        return tape.gradient(total, [self.natural, self.adversarial])


@pytest.fixture
def passes() -> Passes:
    generator = np.random.default_rng(0)
    natural, adversarial = generator.normal(scale=2.0, size=(2, 6, 4)).astype("float32")
    return Passes(tf.constant(natural), tf.constant(adversarial))


@pytest.fixture
def passes_of():
    """A function from logits (clean, adversarial) to `Passes`."""
    return lambda natural, adversarial: Passes(tf.constant(natural), tf.constant(adversarial))


@pytest.fixture
def labels() -> np.ndarray:
    return LABELS
