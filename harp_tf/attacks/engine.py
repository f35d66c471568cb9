"""Runs an attack over many images: one graph per part of it, and the host drops who has fallen between the tries."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from harp_tf.attacks import draws
from harp_tf.attacks.autoattack import Cascade
from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.geometry import select
from harp_tf.attacks.minimum_norm import MinimumNorm
from harp_tf.attacks.predictions import Predict, predicted


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an attack left of a batch of n examples.

    Attributes:
        standing: by predictor, bool [n]: classified correctly clean and after every try.
        adversarial: float32 [n, ...], the first images that fooled the attacked model, else those of the last try.
        parts: by predictor, int [parts]: how many examples stand after each part of the attack.
        distances: float32 [n], how far the nearest image is that fools the attacked model, infinity where none was
            found; None unless the attack looks for it.
    """

    standing: dict[str, np.ndarray]
    adversarial: np.ndarray
    parts: dict[str, np.ndarray]
    distances: np.ndarray | None = None


class Engine:
    """An attack compiled for a model; the graphs have an open batch dimension and are traced once.

    Attributes:
        parts: names of the attack's parts, one unless it is a cascade.
        traces: how many graphs were traced so far.

    Args:
        attack: the attack.
        logits: the model that is attacked, a function in inference mode.
        image_shape: shape of one image.
        num_classes: number of the model's logits.
        chunk: at most so many images go through a graph at once.
    """

    def __init__(
        self, attack: Attack, logits: Logits, image_shape: tuple[int, ...], num_classes: int, chunk: int = 512
    ):
        parts = attack.parts if isinstance(attack, Cascade) else (("", attack),)
        self.parts = tuple(name for name, _ in parts)
        self.traces = 0
        # A search for the nearest image that stops at eps would not find it.
        self._nearest = isinstance(attack, MinimumNorm)
        self._chunk = chunk
        self._attacks = [part for _, part in parts]
        self._tries = [part.tries(num_classes) for part in self._attacks]
        self._graphs = [self._compiled(part, logits, image_shape) for part in self._attacks]

    def _compiled(self, attack: Attack, logits: Logits, image_shape: tuple[int, ...]) -> Callable:
        def craft(images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, number: tf.Tensor) -> tuple:
            self.traces += 1
            if self._nearest and isinstance(attack, MinimumNorm):
                return _nearest(attack, logits, images, labels, seeds, number)
            return *attack.checked_attempt(logits, images, labels, seeds, number), tf.zeros_like(labels, tf.float32)

        signature = [
            tf.TensorSpec([None, *image_shape], tf.float32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, 2], tf.int32),
            tf.TensorSpec([], tf.int32),
        ]
        function = tf.function(craft, input_signature=signature, autograph=False)
        # Made when a part is first reached, and called itself: a concrete function cannot be traced again.
        graph = functools.cache(function.get_concrete_function)
        return lambda *arrays: graph()(*(tf.constant(a, s.dtype) for a, s in zip(arrays, signature)))

    def run(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        predictors: Mapping[str, Predict],
        correct: Mapping[str, np.ndarray],
        *,
        seed: int = 0,
        progress: Callable[[str, int], None] = lambda part, standing: None,
    ) -> Outcome:
        """Attacks a batch.

        Args:
            images: float32 [n, ...] in [0, 1].
            labels: int32 [n].
            indices: int [n], places of the examples in the data set, on which their random numbers depend.
            predictors: the models that are shown every try's images; the first is the attacked one.
            correct: by predictor, bool [n]: whether it classifies the clean image correctly.
            seed: of the run.
            progress: called after every compiled call with the part's name and how many examples the attacked model
                still classifies correctly.

        Returns:
            The outcome. Examples that no predictor classifies correctly are not attacked.

        Raises:
            HarpError: the attack returns images outside the ball or the box, or no numbers.
        """
        attacked = next(iter(predictors))
        standing = {name: np.array(right, bool) for name, right in correct.items()}
        distances = np.where(standing[attacked], np.inf, 0.0).astype(np.float32)
        adversarial, seeds = np.array(images), draws.per_example(seed, indices).numpy()
        fooled = np.zeros(len(images), bool)  # whose first success is kept
        parts: dict[str, list[int]] = {name: [] for name in predictors}
        for part, attack, graph, tries in zip(self.parts, self._attacks, self._graphs, self._tries):
            for number in range(tries):
                survivors = np.flatnonzero(np.any(list((correct if self._nearest else standing).values()), axis=0))
                for start in range(0, len(survivors), self._chunk):
                    rows = survivors[start : start + self._chunk]
                    crafted = graph(images[rows], labels[rows], seeds[rows], number)
                    candidates, faults, sizes = (tensor.numpy() for tensor in crafted)
                    attack.require_sound(faults)
                    distances[rows] = np.minimum(distances[rows], sizes)
                    kept = ~fooled[rows]
                    adversarial[rows[kept]] = candidates[kept]
                    for name, predict in predictors.items():
                        right = predicted(predict, candidates, name) == labels[rows]
                        standing[name][rows] &= right
                        if name == attacked:
                            fooled[rows] |= ~right
                    progress(part, int(standing[attacked].sum()))
            for name in predictors:
                parts[name].append(int(standing[name].sum()))
        return Outcome(
            standing,
            adversarial,
            {name: np.array(counts) for name, counts in parts.items()},
            distances if self._nearest else None,
        )


def _nearest(
    attack: MinimumNorm, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, number: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The nearest images inside the ball, the faults of the nearest anywhere, and their distances."""
    points, found = attack.nearest(logits, images, labels, seeds, number, 0.0)
    faults = attack.faults(points, images, float("inf"))
    sizes = tf.where(tf.math.is_finite(found), attack.ball.size(points - images), float("inf"))
    points = select(sizes <= attack.eps, points, images)
    return attack.project(points, images), faults, sizes
