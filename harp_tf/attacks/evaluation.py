"""Accuracy on clean images and under attack, for one model or for several that share the attack's images."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf

from harp_tf.attacks.base import Attack, Logits

Predict = Callable[[np.ndarray], np.ndarray]
"""Images float32 [n, ...] -> logits [n, classes], on the host."""


@dataclasses.dataclass
class Tally:
    """Counts of one model's correct answers.

    Attributes:
        seen: examples per class, clean.
        correct: correctly classified ones per class, clean.
        attacked: number of attacked examples.
        robust: number of examples that each attack leaves correctly classified, by its name.
    """

    seen: np.ndarray
    correct: np.ndarray
    attacked: int = 0
    robust: dict[str, int] = dataclasses.field(default_factory=dict)

    def result(self) -> dict:
        """natural_accuracy, balanced_accuracy, robust_accuracy by attack, n_test and n_robust."""
        present = self.seen > 0
        return {
            "natural_accuracy": float(self.correct.sum() / self.seen.sum()),
            "balanced_accuracy": float((self.correct[present] / self.seen[present]).mean()),
            "robust_accuracy": {name: count / max(self.attacked, 1) for name, count in self.robust.items()},
            "n_test": int(self.seen.sum()),
            "n_robust": self.attacked,
        }


def evaluate(
    logits: Logits,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    attacks: Mapping[str, Attack],
    predictors: Mapping[str, Predict],
    num_classes: int,
    *,
    robust_limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda examples: None,
) -> dict[str, dict]:
    """Measures natural, balanced and robust accuracy.

    The adversarial images are crafted once, on `logits`, and shown to every predictor. An example counts as robust
    when it is classified correctly both clean and attacked.

    Args:
        logits: the model that is attacked, a function in inference mode that TensorFlow can differentiate.
        batches: (images in [0, 1], labels), one pass over the test split in a fixed order.
        attacks: attacks by the name under which their figures are reported.
        predictors: the models whose answers are counted, by name.
        num_classes: number of classes.
        robust_limit: attack only so many examples, the first ones.
        seed: keys the attacks' random starts, together with the number of the batch.
        progress: called with the number of examples done so far.

    Returns:
        The result of each predictor, see `Tally.result`.
    """
    tallies = {name: Tally(np.zeros(num_classes, int), np.zeros(num_classes, int)) for name in predictors}
    crafters = {name: _compiled(attack, logits) for name, attack in attacks.items()}
    done = 0
    for number, (images, labels) in enumerate(batches):
        truth = labels.numpy()
        room = len(truth) if robust_limit is None else max(min(robust_limit - done, len(truth)), 0)
        attacked = images[:room]
        adversarial = {
            name: craft(attacked, labels[:room], tf.constant([seed, number])).numpy()
            for name, craft in crafters.items()
            if room
        }
        for name, predict in predictors.items():
            tally = tallies[name]
            right = predict(images.numpy()).argmax(-1) == truth
            tally.seen += np.bincount(truth, minlength=num_classes)
            tally.correct += np.bincount(truth[right], minlength=num_classes)
            tally.attacked += room
            for attack, candidates in adversarial.items():
                robust = right[:room] & (predict(candidates).argmax(-1) == truth[:room])
                tally.robust[attack] = tally.robust.get(attack, 0) + int(robust.sum())
        done += len(truth)
        progress(done)
    return {name: tally.result() for name, tally in tallies.items()}


def _compiled(attack: Attack, logits: Logits) -> Callable:
    @tf.function(reduce_retracing=True)
    def craft(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return attack(logits, images, labels, seed)

    return craft
