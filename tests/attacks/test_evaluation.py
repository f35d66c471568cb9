"""Accuracies are counted right, on shared adversarial images, whatever the sizes of the batches."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD, evaluate
from harp_tf.attacks.base import Attack

CLASSES = 3


def logits(images):
    """Class = the largest of the three pixels."""
    return 10.0 * images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Darken(Attack):
    """Lowers the pixel of the true class by eps: what it breaks can be told by hand."""

    def perturb(self, logits, images, labels, seed, number):
        return images - self.eps * tf.one_hot(labels, CLASSES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(Attack):
    """Changes nothing and remembers the seeds."""

    seen: list

    def perturb(self, logits, images, labels, seed, number):
        def remember(seed, count):
            self.seen.append((*seed.tolist(), int(count)))
            return np.int32(0)

        tf.numpy_function(remember, [seed, tf.shape(images)[0]], tf.int32)
        return images


IMAGES = np.array(
    [
        [0.9, 0.1, 0.1],  # class 0, by far
        [0.6, 0.5, 0.1],  # class 0, just
        [0.1, 0.8, 0.1],  # class 1, by far
        [0.5, 0.4, 0.1],  # class 1, taken for 0
        [0.1, 0.1, 0.7],  # class 2, by far
        [0.4, 0.1, 0.3],  # class 2, taken for 0
        [0.1, 0.6, 0.5],  # class 2, taken for 1
    ],
    np.float32,
)
LABELS = np.array([0, 0, 1, 1, 2, 2, 2], np.int32)


def batches(size):
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(size)


def plain(images):
    return logits(images)


def run(size=3, attacks=None, predictors=None, **settings):
    attacks = {"darken": Darken(eps=0.2)} if attacks is None else attacks
    return evaluate(logits, batches(size), attacks, predictors or {"model": plain}, CLASSES, **settings)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_counts_by_hand(size):
    assert run(size) == {
        "model": {
            "natural_accuracy": 4 / 7,
            "balanced_accuracy": pytest.approx((2 / 2 + 1 / 2 + 1 / 3) / 3),
            # Of the four right ones, the second falls: 0.4 against 0.5.
            "robust_accuracy": {"darken": 3 / 7},
            "n_test": 7,
            "n_robust": 7,
        }
    }


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("limit, robust", [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (7, 3), (50, 3)])
def test_robust_limit_takes_the_first_examples_and_leaves_clean_figures(size, limit, robust):
    (result,) = run(size, robust_limit=limit).values()
    attacked = min(limit, 7)
    assert result["n_robust"] == attacked and result["n_test"] == 7
    assert result["robust_accuracy"] == {"darken": robust / attacked}
    assert result["natural_accuracy"] == 4 / 7


def test_robust_means_right_clean_and_attacked():
    # An attack that helps: it moves every image to the true class.
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Help(Attack):
        def perturb(self, logits, images, labels, seed, number):
            return images + self.eps * tf.one_hot(labels, CLASSES)

    (result,) = run(attacks={"help": Help(eps=0.5)}).values()
    assert result["robust_accuracy"] == {"help": 4 / 7}


def test_without_attacks():
    (result,) = run(attacks={}).values()
    assert result["robust_accuracy"] == {} and result["n_test"] == 7


def test_a_class_that_is_absent_does_not_count_as_wrong():
    present = tf.data.Dataset.from_tensor_slices((IMAGES[:2], LABELS[:2])).batch(2)
    result = evaluate(logits, present, {}, {"model": plain}, CLASSES)["model"]
    assert result["balanced_accuracy"] == 1.0


def test_every_predictor_sees_the_same_images_in_the_same_order():
    seen = {"a": [], "b": []}

    def predictor(name):
        def predict(images):
            assert isinstance(images, np.ndarray) and images.dtype == np.float32
            seen[name].append(images)
            return logits(images) if name == "a" else -logits(images)

        return predict

    results = run(2, predictors={name: predictor(name) for name in seen})
    for one, other in zip(seen["a"], seen["b"], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(seen["a"]) == 8  # four batches, clean and attacked
    assert results["a"]["natural_accuracy"] == 4 / 7
    assert results["b"]["natural_accuracy"] == 0.0
    assert list(results) == ["a", "b"]


def test_two_attacks_are_counted_apart():
    (result,) = run(attacks={"weak": Darken(eps=0.0), "strong": Darken(eps=1.0)}).values()
    assert result["robust_accuracy"] == {"weak": 4 / 7, "strong": 0.0}


def test_the_start_is_keyed_by_seed_and_number_of_the_batch():
    seen = []
    run(3, attacks={"record": Record(eps=0.0, seen=seen)}, seed=2**31 - 1, robust_limit=5)
    assert seen == [(2**31 - 1, 0, 3), (2**31 - 1, 1, 2)]  # the third batch is not attacked


def test_the_same_seed_gives_the_same_images_and_another_one_others():
    def adversarial(seed):
        seen = []

        def predict(images):
            seen.append(images)
            return logits(images)

        run(7, attacks={"pgd": PGD(eps=0.3, steps=1, step_size=0.0)}, predictors={"m": predict}, seed=seed)
        return seen[1]

    np.testing.assert_array_equal(adversarial(1), adversarial(1))
    assert np.abs(adversarial(1) - adversarial(2)).max() > 0.01


def test_pgd_finds_what_darkening_finds():
    (result,) = run(attacks={"pgd": PGD(eps=0.2, steps=20)}).values()
    # PGD also raises the other pixels: 0.6 - 0.2 against 0.5 + 0.2; the three far ones stay.
    assert result["robust_accuracy"] == {"pgd": 3 / 7}
    (result,) = run(attacks={"pgd": PGD(eps=0.45, steps=20)}).values()
    assert result["robust_accuracy"] == {"pgd": 0.0}


def test_progress_tells_the_examples_done():
    done = []
    run(3, progress=done.append)
    assert done == [3, 6, 7]
