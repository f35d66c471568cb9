"""Accuracies are counted right, on shared adversarial images, whatever the sizes of the batches."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import FMN, PGD, Attack, Cascade, State, evaluate
from harp_tf.attacks.tally import wilson
from harp_tf.types import HarpError

CLASSES = 3


def logits(images):
    """Class = the largest of the three pixels."""
    return 10.0 * images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Darken(Attack):
    """Lowers the pixel of the true class by eps: what it breaks can be told by hand."""

    def perturb(self, logits, images, labels, seed, number):
        return tf.clip_by_value(images - self.eps * tf.one_hot(labels, CLASSES), 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(Attack):
    """Changes nothing and remembers the seeds of the examples."""

    seen: list

    def perturb(self, logits, images, labels, seed, number):
        def remember(seeds):
            self.seen.extend(map(tuple, seeds.tolist()))
            return np.int32(0)

        tf.numpy_function(remember, [seed], tf.int32)
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
    settings = {"check": False, **settings}
    return evaluate(logits, batches(size), attacks, predictors or {"model": plain}, CLASSES, **settings).figures


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_counts_by_hand(size):
    natural = {
        "natural_accuracy": 4 / 7,
        "balanced_accuracy": pytest.approx((2 / 2 + 1 / 2 + 1 / 3) / 3),
        "per_class": [1.0, 1 / 2, 1 / 3],
        "ci95": wilson(4, 7),
        "right": "e8",  # 1110100
        "n_test": 7,
    }
    darken = {
        "norm": "linf",
        "eps": 0.2,
        "n": 7,
        # Of the four right ones, the second falls: 0.4 against 0.5.
        "robust_accuracy": 3 / 7,
        "ci95": wilson(3, 7),
        "balanced_accuracy": pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3),
        "per_class": [1 / 2, 1 / 2, 1 / 3],
        "right": "a8",  # 1010100
        "seed": 0,
        "settings": {"attack": "darken", "eps": 0.2, "norm": "linf"},
    }
    ((name, figures),) = run(size).items()
    assert name == "model"
    (check,) = figures["attacks"]["darken"].pop("checks")
    assert check["check"] == "too_few_samples"
    assert figures == {
        **natural,
        "robust_accuracy": {"darken": 3 / 7},
        "n_robust": 7,
        "attacks": {"darken": darken},
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
            return tf.clip_by_value(images + self.eps * tf.one_hot(labels, CLASSES), 0.0, 1.0)

    (result,) = run(attacks={"help": Help(eps=0.5)}).values()
    assert result["robust_accuracy"] == {"help": 4 / 7}


@pytest.mark.parametrize("size", [2, 7])
def test_the_logits_of_another_predictor_are_compared_on_all_images(size):
    def nearly(images):  # off by 0.25 on the last image
        return plain(images) + 0.25 * np.all(np.isclose(images, IMAGES[-1]), -1, keepdims=True)

    found = run(size, robust_limit=1, predictors={"model": plain, "file": nearly})
    assert found["file"]["max_logit_difference"] == pytest.approx(0.25, rel=1e-5)
    assert "max_logit_difference" not in found["model"]


def test_without_attacks():
    (result,) = run(attacks={}).values()
    assert result["robust_accuracy"] == {} and result["n_test"] == 7


def test_a_class_that_is_absent_does_not_count_as_wrong():
    present = tf.data.Dataset.from_tensor_slices((IMAGES[:2], LABELS[:2])).batch(2)
    result = evaluate(logits, present, {}, {"model": plain}, CLASSES).figures["model"]
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
    del seen["a"][2]  # the attacked model alone says what it takes the examples for that are shown to people
    for one, other in zip(seen["a"], seen["b"], strict=True):
        np.testing.assert_array_equal(one, other)
    # Four batches, clean, and those of their examples that a predictor has right, attacked.
    assert len(seen["a"]) == 7 and sum(map(len, seen["a"])) == 7 + 4
    assert results["a"]["natural_accuracy"] == 4 / 7
    assert results["b"]["natural_accuracy"] == 0.0
    assert list(results) == ["a", "b"]


def test_two_attacks_are_counted_apart():
    (result,) = run(attacks={"weak": Darken(eps=0.0), "strong": Darken(eps=1.0)}).values()
    assert result["robust_accuracy"] == {"weak": 4 / 7, "strong": 0.0}


def test_random_numbers_are_keyed_by_seed_and_example():
    for size in (1, 3, 7):
        seen = []
        run(size, attacks={"record": Record(eps=0.0, seen=seen)}, seed=2**31 - 1, robust_limit=5)
        # The fourth is misclassified as it is; from the sixth on none is attacked.
        assert seen == [(2**31 - 1, place) for place in (0, 1, 2, 4)]


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


def test_progress_tells_the_examples_done_and_the_robust_accuracy_so_far():
    told = []
    run(3, attacks={"darken": Darken(eps=0.2), "none": Darken(eps=0.0)}, progress=told.append)
    assert [(p.done, p.work) for p in told] == [
        (0, "darken"), (0, "none"), (3, ""),
        (3, "darken"), (3, "none"), (6, ""),
        (7, ""),  # nobody to attack
    ]  # fmt: skip
    assert told[0].robust["darken"] == 2 / 3
    assert told[2].robust == {"darken": 2 / 3, "none": 1.0}
    assert told[3].robust["darken"] == 3 / 6
    assert told[-1].robust == {"darken": 3 / 7, "none": 4 / 7}


class Killed(Exception):
    """What an interruption looks like."""


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, after):
    attacks = {
        "pgd": PGD(eps=0.2, steps=3),
        "parts": Cascade(eps=0.2, parts=(("darken", Darken(eps=0.2)), ("pgd", PGD(eps=0.2, steps=2, restarts=2)))),
    }
    whole = run(2, attacks=attacks, keep_all=True)

    def kill(progress):
        if progress.done == 2 * after and progress.work:
            raise Killed

    with pytest.raises(Killed):
        run(2, attacks=attacks, state=State(tmp_path / "state", {"seed": 0}), progress=kill, keep_all=True)
    state = State(tmp_path / "state", {"seed": 0})
    assert state.finished == after
    worked = set()
    again = run(2, attacks=attacks, state=state, progress=lambda p: p.work and worked.add(p.done), keep_all=True)
    assert again == whole
    assert worked == ({2, 4} if after == 1 else {4})  # nothing was measured twice; the last batch has none to attack


def test_labels_that_were_mended_after_an_interruption_count(tmp_path):
    def evaluated(labels, **more):
        data = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(4)
        return evaluate(logits, data, {}, {"m": plain}, CLASSES, check=False, **more).figures

    def kill(progress):
        raise Killed

    with pytest.raises(Killed):
        evaluated((LABELS + 1) % 3, state=State(tmp_path, {}), progress=kill)
    assert State(tmp_path, {}).finished == 1
    lines = []
    assert evaluated(LABELS, state=State(tmp_path, {}, lines.append)) == evaluated(LABELS)
    assert len(lines) == 1 and "measured anew" in lines[0]


def test_examples_are_those_that_fell_and_all_if_asked_for():
    def examples(**settings):
        found = evaluate(
            logits, batches(7), {"darken": Darken(eps=0.2)}, {"m": plain}, CLASSES, check=False, **settings
        )
        return found.examples["darken"]

    few, every = examples(), examples(keep_all=True)
    np.testing.assert_allclose(few["images"][0], IMAGES[1])  # the one that fell comes first
    assert few["labels"][0] == 0 and few["predicted"][0] == 1
    np.testing.assert_allclose(few["adversarial"][0], [0.4, 0.5, 0.1])
    np.testing.assert_allclose(every["images"], IMAGES)
    assert every["labels"].tolist() == LABELS.tolist()


def test_a_cascade_reports_its_stages():
    parts = (("weak", Darken(eps=0.2)), ("strong", Darken(eps=0.2)))
    (result,) = run(attacks={"both": Cascade(eps=0.2, parts=parts)}).values()
    assert result["attacks"]["both"]["stages"] == {"weak": 3 / 7, "strong": 3 / 7}


def test_an_attack_that_finds_distances_gives_a_curve():
    (result,) = run(attacks={"fmn": FMN(eps=0.25, steps=60)}).values()
    entry = result["attacks"]["fmn"]
    radii, robust = entry["curve"]["eps"], entry["curve"]["robust_accuracy"]
    assert len(radii) == 21 and radii[0] == 0 and radii[-1] == pytest.approx(0.5)
    assert robust[0] == 4 / 7 and robust[10] == entry["robust_accuracy"] == 3 / 7 and robust[-1] == 0.0
    assert sorted(robust, reverse=True) == robust
    # Half of the gap between the largest pixel and the next: 0, 0, 0, 0.05, then three farther ones.
    assert entry["median_distance"] == pytest.approx(0.05, abs=0.005)


def test_figures_of_other_predictors_say_what_was_attacked():
    found = run(predictors={"model": plain, "file": plain}, attacks={"fmn": FMN(eps=0.2, steps=3)})
    assert "crafted_on" not in found["model"]["attacks"]["fmn"]
    assert found["file"]["attacks"]["fmn"]["crafted_on"] == "model" and "curve" not in found["file"]["attacks"]["fmn"]


def test_nothing_to_evaluate():
    with pytest.raises(HarpError, match="at least one batch"):
        evaluate(logits, batches(3).take(0), {}, {"m": plain}, CLASSES)
