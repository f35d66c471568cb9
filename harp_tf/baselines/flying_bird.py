"""Flying Bird: sparse adversarial training that drops small weights and grows others where the gradient is large."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harp_tf import compression
from harp_tf.baselines.base import WEIGHTS_ONLY, Method, require_steps
from harp_tf.baselines.magnitude import keep_heaviest
from harp_tf.layers import budget_of
from harp_tf.training import AdversarialModel

UPDATES = 20
"""How often weights are dropped and grown. The authors do so every 900 of 78,000 steps."""

FIRST_SHARE, LAST_SHARE = 0.5, 0.005
"""Share of the kept weights that is dropped, at the start of training and at its end; a cosine in between."""

EXTRA_DROP, EXTRA_GROWTH = 0.4, 0.05
"""Of the share, how much more Flying Bird+ drops or grows where it changes the sparsity."""

HISTORY = 4
"""Over so many epochs Flying Bird+ looks back."""


def share_at(step: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """The share of the kept weights that is dropped at a step, a float32 scalar."""
    done = tf.cast(step, tf.float32) / tf.cast(steps, tf.float32)
    return LAST_SHARE + (FIRST_SHARE - LAST_SHARE) * 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(done, 1.0)))


def largest_among(values: tf.Tensor, among: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Marks the `count` entries of largest |value| among some, the first ones among equals.

    Args:
        values: float32 tensor.
        among: tensor of the same shape, not 0 on those that may be marked, at least `count` of them.
        count: int32 scalar, may be 0.

    Returns:
        float32 tensor of zeros and ones.
    """
    # One more than the bits of |value|: entries that are 0 come after all others, and before those not asked for.
    bits = tf.bitwise.bitwise_and(tf.bitcast(tf.cast(values, tf.float32), tf.int32), 0x7FFFFFFF) + 1
    ranks = tf.bitcast(tf.where(tf.not_equal(among, 0.0), bits, 0), tf.float32)
    return compression.top_k_mask(ranks, tf.maximum(count, 1)) * tf.cast(count > 0, tf.float32)


def drop_and_grow(
    weights: tf.Tensor, mask: tf.Tensor, gradients: tf.Tensor, dropped: tf.Tensor, grown: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Drops the kept weights of smallest magnitude, and grows removed ones of largest gradient.

    Args:
        weights: float32 tensor.
        mask: its mask, zeros and ones.
        gradients: of the loss with respect to weights * mask, of removed weights too.
        dropped: int32 scalar, how many to drop, fewer than are kept.
        grown: int32 scalar, how many to grow; those that were just dropped may grow again.

    Returns:
        The new mask and the new weights: those that were removed before start from 0.
    """
    kept = tf.cast(tf.reduce_sum(mask), tf.int32)
    left = largest_among(weights, mask, kept - dropped)
    new = left + largest_among(gradients, 1.0 - left, grown)
    return new, weights * mask * new


class FlyingBirdTraining(AdversarialModel):
    """Trains the weights of a wrapped network under masks that move, at a constant number of weights per layer.

    Every `interval` steps the share p of the kept weights of each layer that are the smallest is dropped, and as many
    of the removed ones whose gradient on the last batch was the largest grow. p falls along a cosine.

    Args:
        network: a network whose masks are those to start from, set to train its weights.
        *args: passed to AdversarialModel.
        **kwargs: likewise.

    Reference:
        Chen et al., Sparsity Winning Twice: Better Robust Generalization from More Efficient Training, ICLR 2022.
    """

    def __init__(self, network: keras.Model, *args, **kwargs):
        super().__init__(network, *args, **kwargs)
        self.seen = [
            keras.Variable(tf.zeros(k.variable.shape), trainable=False, name=f"seen_{i}", aggregation="mean")
            for i, k in enumerate(self._kernels)
        ]
        self.total = keras.Variable(1, trainable=False, dtype="int32", name="total")

    def own_state(self) -> dict[str, keras.Variable]:
        """See `AdversarialModel`: with the gradients of the last batch."""
        return {**super().own_state(), **{variable.name: variable for variable in [*self.seen, self.total]}}

    def fit(self, *args, epochs: int = 1, steps_per_epoch: int | None = None, **kwargs):
        """As `AdversarialModel.fit`; the number of steps sets the time between updates and the share's decay.

        Raises:
            HarpError: without steps_per_epoch.
        """
        steps_per_epoch = require_steps(steps_per_epoch)
        self.total.assign(epochs * steps_per_epoch)
        for kernel in self._kernels:  # from scores to masks, which is what moves
            kernel.scores.scores.assign(kernel.scores.mask())
        return super().fit(*args, epochs=epochs, steps_per_epoch=steps_per_epoch, **kwargs)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """As `AdversarialModel.train_step`, after the masks have moved where it is time."""
        steps, total = tf.convert_to_tensor(self.steps), tf.convert_to_tensor(self.total)
        interval = tf.maximum(total // UPDATES, 1)
        tf.cond((steps > 0) & (steps % interval == 0), lambda: self._move(share_at(steps, total)), lambda: None)
        return super().train_step(data)

    def _update(self, *args, **kwargs):
        for seen in self.seen:
            seen.assign(tf.zeros(seen.shape))
        return super()._update(*args, **kwargs)

    def _see(self, kernel_gradients: dict[int, tf.Tensor | None]) -> None:
        for kernel, seen in zip(self._kernels, self.seen, strict=True):
            gradient = kernel_gradients[id(kernel.variable)]
            if gradient is not None:
                seen.assign_add(gradient)  # over the parts of a batch that is computed in several

    def _move(self, share: tf.Tensor) -> None:
        for kernel, seen in zip(self._kernels, self.seen, strict=True):
            mask = tf.convert_to_tensor(kernel.scores.scores)
            kept = tf.reduce_sum(mask)
            count = tf.minimum(tf.cast(tf.math.ceil(share * kept), tf.int32), tf.cast(kept, tf.int32) - 1)
            new, weights = drop_and_grow(tf.convert_to_tensor(kernel.variable), mask, seen.value, count, count)
            kernel.scores.scores.assign(new)
            kernel.variable.assign(weights)


class FlyingBirdPlusTraining(FlyingBirdTraining):
    """Flying Bird that changes the sparsity too, in the second half of training, and never exceeds the budget.

    After an epoch weights are dropped in addition, if the gap between the robust accuracies on training and validation
    data widened in at least half of the last epochs, and grown, if the validation loss rose in at least half of them.

    Args:
        network: as for `FlyingBirdTraining`.
        *args: passed to AdversarialModel.
        **kwargs: likewise.

    Reference:
        Chen et al., Sparsity Winning Twice: Better Robust Generalization from More Efficient Training, ICLR 2022.
    """

    chooses_epoch = False  # of epochs with different numbers of weights the densest would be chosen, and undo the rest

    def __init__(self, network: keras.Model, *args, **kwargs):
        super().__init__(network, *args, **kwargs)
        self.course = keras.Variable(np.zeros((2, HISTORY + 1), np.float32), trainable=False, name="course")
        self.known = keras.Variable(0, trainable=False, dtype="int32", name="known")

    def own_state(self) -> dict[str, keras.Variable]:
        """See `AdversarialModel`: with the gaps and losses of the last epochs, and the number of epochs."""
        return {**super().own_state(), "course": self.course, "known": self.known}

    def evaluate(self, *args, **kwargs):
        """As `AdversarialModel.evaluate`; after an epoch of `fit` the number of weights changes if it is time."""
        key = "adversarial_accuracy" if self.robust_loss.needs_attack else "natural_accuracy"
        before = self.get_metrics_result().get(key)
        figures = super().evaluate(*args, **kwargs)
        if kwargs.get("_use_cached_eval_dataset"):  # inside `fit`
            self._adapt(float(before) - figures[key], figures["loss"])
        return figures

    def _adapt(self, gap: float, loss: float) -> None:
        course = np.roll(keras.ops.convert_to_numpy(self.course), -1, axis=1)
        course[:, -1] = gap, loss
        self.course.assign(course)
        self.known.assign_add(1)
        steps, total = (int(keras.ops.convert_to_numpy(v)) for v in (self.steps, self.total))
        if 2 * steps < total:
            return
        known = min(int(keras.ops.convert_to_numpy(self.known)), HISTORY + 1)
        widened, rose = (rising(figures[-known:]) for figures in course)
        share = float(share_at(tf.constant(steps), tf.constant(total)))
        kept = [kernel.scores.kept() for kernel in self._kernels]
        dropped = [min(math.ceil(EXTRA_DROP * share * count), count - 1) if widened else 0 for count in kept]
        wanted = [math.ceil(EXTRA_GROWTH * share * count) if rose else 0 for count in kept]
        budget = budget_of(self.network)
        room = budget.permitted - budget.kept + sum(dropped)
        for kernel, seen, count, less, more in zip(self._kernels, self.seen, kept, dropped, wanted, strict=True):
            more = min(more, room, kernel.scores.size - count + less)
            room -= more
            new, weights = drop_and_grow(kernel.variable.value, kernel.scores.scores.value, seen.value, less, more)
            kernel.variable.assign(weights)
            kernel.scores.scores.assign(new)
            kernel.scores.set_count(count - less + more)


def rising(figures: np.ndarray) -> bool:
    """Whether the figures of epochs rose in at least half of the steps from one to the next; False for a single one."""
    return figures.size > 1 and bool(np.mean(np.diff(figures) > 0) >= 0.5)


_SHARED: dict[str, Any] = {
    "strategy": "igq",
    "start": keep_heaviest,
    "only": {**WEIGHTS_ONLY, "distribute": "none"},
    "trains": "finetune",
    "finetunes": False,
}

FLYING_BIRD = Method(**_SHARED, trainer=FlyingBirdTraining)
"""Masks that move during sparse training, from the largest weights at ideal-gas-quota rates."""

FLYING_BIRD_PLUS = Method(**_SHARED, trainer=FlyingBirdPlusTraining)
"""Flying Bird with an adaptive sparsity."""
