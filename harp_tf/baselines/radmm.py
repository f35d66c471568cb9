"""Robust-ADMM: weights that are drawn towards sparse ones while they are trained, and then cut."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from harp_tf import compression
from harp_tf.baselines.base import WEIGHTS_ONLY, Method, keep_all, keep_largest, require_steps
from harp_tf.training import AdversarialModel

UPDATES = 10
"""In so many parts of equal length the weights are trained for the same Z and U; the authors' have 20 epochs each."""

GROWTH = 1.3
"""Factor of rho from one part to the next, as in the authors' code."""

PULL = 20.0
"""rho_0 times the steps of the stage: a short stage pulls as strongly as a long one.

The authors' 0.001 is for 78,000 steps at a learning rate of at most 0.01; stages begin at 0.1 here."""

LARGEST = 2.0
"""Bound of rho: under momentum a stronger pull overshoots at the usual learning rates."""


def project(values: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """The nearest tensor with `count` entries that are not 0: those of largest magnitude stay."""
    return values * compression.top_k_mask(values, tf.convert_to_tensor(count, tf.int32))


class AdmmTraining(AdversarialModel):
    """Trains the weights W of a wrapped network under robust loss + rho / 2 * sum of |W - Z + U|^2.

    Z starts as the projection of W, U as 0. After each of `UPDATES` parts of the stage but the last Z becomes the
    projection of W + U, U grows by W - Z, and rho by the factor `GROWTH`. Training runs without masks; when it is
    validated, and when it ends, the network is cut: each mask keeps as many weights as it did in the network that was
    given, the largest ones. The last epoch is kept: early ones have weights that nothing has drawn to where they are
    cut.

    Args:
        network: a network whose masks keep what may remain, set to train its weights.
        *args: passed to AdversarialModel.
        **kwargs: likewise.

    Reference:
        Ye et al., Adversarial Robustness vs. Model Compression, or Both?, ICCV 2019, section 4.
    """

    chooses_epoch = False

    def __init__(self, network: keras.Model, *args, **kwargs):
        super().__init__(network, *args, **kwargs)
        self.counts = _state([kernel.scores.kept() for kernel in self._kernels], "int32", "counts")
        self.auxiliary = _state([project(k.variable.value, k.scores.kept()) for k in self._kernels], "float32", "z")
        self.dual = _state([tf.zeros(k.variable.shape) for k in self._kernels], "float32", "u")
        self.rho = keras.Variable(0.0, trainable=False, dtype="float32", name="rho")
        self.interval = keras.Variable(1, trainable=False, dtype="int32", name="interval")

    def own_state(self) -> dict[str, keras.Variable]:
        """See `AdversarialModel`: with Z, U and rho."""
        own = [*self.counts, *self.auxiliary, *self.dual, self.rho, self.interval]
        return {**super().own_state(), **{variable.name: variable for variable in own}}

    def fit(self, *args, epochs: int = 1, steps_per_epoch: int | None = None, **kwargs):
        """As `AdversarialModel.fit`; the number of steps sets rho_0 and the time between updates.

        Raises:
            HarpError: without steps_per_epoch.
        """
        steps_per_epoch = require_steps(steps_per_epoch)
        steps = epochs * steps_per_epoch
        self.rho.assign(min(PULL / steps, LARGEST))
        self.interval.assign(max(steps // UPDATES, 1))
        self.relax()
        history = super().fit(*args, epochs=epochs, steps_per_epoch=steps_per_epoch, **kwargs)
        self.cut()
        return history

    def evaluate(self, *args, **kwargs):
        """As `AdversarialModel.evaluate`, on the network as it is cut."""
        logits = [keras.ops.convert_to_numpy(kernel.scores.logit) for kernel in self._kernels]
        self.cut()
        figures = super().evaluate(*args, **kwargs)
        for kernel, logit in zip(self._kernels, logits, strict=True):
            kernel.scores.logit.assign(logit)
        return figures

    def cut(self) -> None:
        """Lets each mask keep the largest weights, as many as may remain."""
        for kernel, count in zip(self._kernels, self.counts, strict=True):
            values = keras.ops.convert_to_numpy(kernel.variable)
            keep_largest(kernel, values, int(keras.ops.convert_to_numpy(count)))

    def relax(self) -> None:
        """Lets all masks keep everything."""
        keep_all(self._kernels)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """As `AdversarialModel.train_step`, after an update of Z and U where one is due."""
        steps, interval = tf.convert_to_tensor(self.steps), tf.convert_to_tensor(self.interval)
        due = (steps > 0) & (steps < UPDATES * interval) & (steps % interval == 0)
        tf.cond(due, self._advance, lambda: None)
        return super().train_step(data)

    def _advance(self) -> None:
        for kernel, count, z, u in zip(self._kernels, self.counts, self.auxiliary, self.dual, strict=True):
            weights = tf.convert_to_tensor(kernel.variable)
            target = project(weights + u, count)
            z.assign(target)
            u.assign_add(weights - target)
        self.rho.assign(tf.minimum(GROWTH * self.rho, LARGEST))

    def proximal(self) -> tf.Tensor:
        """rho / 2 * sum of |W - Z + U|^2, a float32 scalar."""
        distances = [
            tf.reduce_sum(tf.square(tf.convert_to_tensor(kernel.variable) - z + u))
            for kernel, z, u in zip(self._kernels, self.auxiliary, self.dual, strict=True)
        ]
        return self.rho / 2.0 * tf.add_n(distances)

    def _terms(self, predict, images, adversarial, labels, weights, share):
        terms, loss = super()._terms(predict, images, adversarial, labels, weights, share)
        return terms, loss + share.part(self.proximal())


def _state(values: Sequence, dtype: str, name: str) -> list[keras.Variable]:
    return [
        keras.Variable(value, trainable=False, dtype=dtype, name=f"{name}_{index}")
        for index, value in enumerate(values)
    ]


RADMM = Method(only={**WEIGHTS_ONLY, "distribute": "none"}, trains="finetune", trainer=AdmmTraining)
"""The largest weights of each layer after training by ADMM, at the same rate in all layers."""
