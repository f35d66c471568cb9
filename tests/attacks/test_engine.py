"""The host's part of an attack: who is still attacked, what counts, and that nothing depends on how it is cut."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import FMN, PGD, APGDTargeted, Attack, Cascade, Engine, Square
from harp_tf.attacks.minimum_norm import MinimumNorm
from harp_tf.types import HarpError

CLASSES = 3
WEIGHTS = tf.random.stateless_normal([12, CLASSES], [3, 4])
IMAGES = tf.random.stateless_uniform([40, 2, 2, 3], [5, 6]).numpy()


def logits(images):
    return tf.tanh(tf.reshape(images, [-1, 12]) - 0.5) @ WEIGHTS * 4.0


def predict(images):
    return logits(images).numpy()


LABELS = np.where(np.arange(40) % 7 == 0, 0, predict(IMAGES).argmax(-1)).astype(np.int32)
RIGHT = predict(IMAGES).argmax(-1) == LABELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    """Changes all pixels by eps in its second try and by nothing in the others; tells what it was called with."""

    calls: list = dataclasses.field(default_factory=list)

    def tries(self, num_classes):
        return 3

    def perturb(self, logits, images, labels, seed, number):
        def remember(images, number):
            self.calls.append((int(number), len(images)))
            return np.float32(0)

        tf.numpy_function(remember, [images, number], tf.float32)
        return tf.clip_by_value(images + self.eps * tf.cast(tf.equal(number, 1), tf.float32), 0, 1)


def by_brightness(images):
    light = tf.reduce_mean(images, [1, 2, 3]) - 0.5
    return tf.stack([-light, light, light - 9.0], 1)


def run(engine, images=IMAGES, labels=LABELS, first=0, logits=logits, predictors=None, **settings):
    predictors = predictors or {"model": lambda x: logits(tf.constant(x)).numpy()}
    correct = {name: predict(images).argmax(-1) == labels for name, predict in predictors.items()}
    return engine.run(images, labels, first + np.arange(len(images)), predictors, correct, **settings)


def grey(*values):
    return np.stack([np.full([2, 2, 1], value, np.float32) for value in values])


def test_who_has_fallen_is_attacked_no_more_and_the_first_success_is_kept():
    attack = Shift(eps=0.3)
    engine = Engine(attack, by_brightness, (2, 2, 1), CLASSES)
    images = grey(0.4, 0.1, 0.6, 0.3)  # the third is misclassified as it is
    outcome = run(engine, images, np.zeros(4, np.int32), logits=by_brightness)
    assert attack.calls == [(0, 3), (1, 3), (2, 1)]
    assert outcome.standing["model"].tolist() == [False, True, False, False]
    np.testing.assert_allclose(outcome.adversarial, images + 0.3 * np.array([1, 0, 0, 1])[:, None, None, None])
    assert outcome.parts["model"].tolist() == [1]


def test_parts_of_a_cascade_see_the_survivors_of_the_ones_before():
    near, far = Shift(eps=0.3), Shift(eps=0.3)
    cascade = Cascade(eps=0.3, parts=(("pgd", PGD(eps=0.3, steps=2)), ("near", near), ("far", far)))
    engine = Engine(cascade, by_brightness, (2, 2, 1), CLASSES)
    told = []
    outcome = run(
        engine,
        grey(0.4, 0.1, 0.6, 0.45),
        np.zeros(4, np.int32),
        logits=by_brightness,
        progress=lambda part, standing: told.append((part, standing)),
    )
    assert engine.parts == ("pgd", "near", "far")
    assert near.calls == [(0, 1), (1, 1), (2, 1)] == far.calls  # PGD left one
    assert outcome.parts["model"].tolist() == [1, 1, 1]
    assert told == [("pgd", 1)] + [("near", 1)] * 3 + [("far", 1)] * 3


def test_another_predictor_is_shown_every_try_and_goes_on_alone():
    attack = Shift(eps=0.3)
    engine = Engine(attack, by_brightness, (2, 2, 1), CLASSES)
    shown = {
        "model": lambda x: by_brightness(tf.constant(x)).numpy(),
        "stubborn": lambda x: by_brightness(tf.constant(x) - 0.25).numpy(),  # answers 1 from 0.75 on
    }
    outcome = run(engine, grey(0.4, 0.46, 0.6, 0.8), np.zeros(4, np.int32), predictors=shown)
    assert outcome.standing["model"].tolist() == [False, False, False, False]
    assert outcome.standing["stubborn"].tolist() == [True, False, False, False]
    # The third is attacked for the second predictor's sake; nobody classifies the fourth correctly.
    assert attack.calls == [(0, 3), (1, 3), (2, 1)]


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.15, steps=4, restarts=2),
        Cascade(eps=0.15, parts=(("t", APGDTargeted(eps=0.15, steps=6)), ("square", Square(eps=0.15, queries=30)))),
        FMN(eps=0.15, steps=8),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_verdicts_do_not_depend_on_batches_order_or_neighbours_and_nothing_is_traced_twice(attack):
    engine = Engine(attack, logits, (2, 2, 3), CLASSES, chunk=16)
    whole = run(engine, seed=3)
    traces = engine.traces
    assert traces == (2 if isinstance(attack, Cascade) else 1)
    for size in (1, 3, 17):
        pieces = [run(engine, IMAGES[i : i + size], LABELS[i : i + size], i, seed=3) for i in range(0, 40, size)]
        np.testing.assert_array_equal(np.concatenate([p.standing["model"] for p in pieces]), whole.standing["model"])
        np.testing.assert_allclose(np.concatenate([p.adversarial for p in pieces]), whole.adversarial, atol=1e-5)
    assert engine.traces == traces
    backwards = engine.run(
        IMAGES[::-1].copy(),
        LABELS[::-1].copy(),
        np.arange(40)[::-1],
        {"model": predict},
        {"model": RIGHT[::-1]},
        seed=3,
    )
    np.testing.assert_array_equal(backwards.standing["model"][::-1], whole.standing["model"])
    assert 0 < whole.standing["model"].sum() < RIGHT.sum()  # the attack did something, and not everything
    assert not (whole.standing["model"] & ~RIGHT).any()
    assert np.abs(whole.adversarial - IMAGES).max() <= 0.15 + 1e-6


def test_distances_are_those_of_the_nearest_images_whatever_the_radius():
    small, large = (run(Engine(FMN(eps=eps, steps=40), logits, (2, 2, 3), CLASSES)) for eps in (0.01, 0.5))
    np.testing.assert_allclose(small.distances, large.distances, atol=1e-6)
    np.testing.assert_array_equal(small.distances == 0, ~RIGHT)
    for eps, outcome in ((0.01, small), (0.5, large)):
        np.testing.assert_array_equal(outcome.standing["model"], RIGHT & (outcome.distances > eps))
    assert run(Engine(PGD(eps=0.1, steps=1), logits, (2, 2, 3), CLASSES)).distances is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotANumber(Attack):
    def perturb(self, logits, images, labels, seed, number):
        return images * float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TooFar(Attack):
    def perturb(self, logits, images, labels, seed, number):
        return 1.0 - images


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestIsNoNumber(MinimumNorm):
    def _search(self, logits, images, labels, seed, number, enough):
        return images * float("nan"), tf.zeros(tf.shape(labels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestIsNoImage(MinimumNorm):
    def _search(self, logits, images, labels, seed, number, enough):
        return images + 5.0, tf.ones(tf.shape(labels))


@pytest.mark.parametrize(
    "attack",
    [NotANumber(eps=0.1), TooFar(eps=0.1), NearestIsNoNumber(eps=0.1), NearestIsNoImage(eps=0.1)],
    ids=lambda a: type(a).__name__,
)
def test_a_wrong_attack_is_named_and_gives_no_figure(attack):
    with pytest.raises(HarpError, match=type(attack).__name__):
        run(Engine(attack, logits, (2, 2, 3), CLASSES))


def test_nobody_to_attack():
    wrong = np.where(RIGHT, (LABELS + 1) % CLASSES, LABELS).astype(np.int32)
    images, labels = IMAGES[RIGHT], wrong[RIGHT]
    outcome = run(Engine(PGD(eps=0.1, steps=1), logits, (2, 2, 3), CLASSES), images, labels)
    assert not outcome.standing["model"].any()
    np.testing.assert_array_equal(outcome.adversarial, images)
