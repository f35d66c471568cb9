"""What every attack promises, over random models, shapes, radii, norms and precisions.

A new attack is one line of `ATTACKS`.
"""

import dataclasses
import functools
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from harp_tf.attacks import APGD, CW, FGSM, FMN, PGD, APGDTargeted, Attack, Cascade, FABTargeted, draws, evaluate
from harp_tf.attacks.engine import Engine
from harp_tf.attacks.square import Square
from harp_tf.types import HarpError

# Every attack by name, as a function of eps and norm, with few steps.
ATTACKS = {
    "fgsm": FGSM,
    "pgd": partial(PGD, steps=3, restarts=2),
    "pgd_kl": partial(PGD, steps=2, objective="kl", start="normal"),
    "cw": partial(CW, steps=3, start="clean"),
    "apgd_ce": partial(APGD, steps=3),
    "apgd_dlr": partial(APGD, steps=3, objective="dlr"),
    "apgd_t": partial(APGDTargeted, steps=3, targets=2),
    "fab_t": partial(FABTargeted, steps=3, targets=2),
    "fmn": partial(FMN, steps=3),
    "square": partial(Square, queries=5),
    "cascade": lambda **ball: Cascade(
        **ball, parts=(("pgd", PGD(**ball, steps=2, restarts=2)), ("square", Square(**ball, queries=3)))
    ),
}

EXAMPLES = 6
few = settings(max_examples=6, deadline=None, derandomize=True)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A random network of two layers, and images of which some are misclassified and some pixels are 0 or 1."""

    shape: tuple[int, ...]
    classes: int
    images: str
    logits: str
    seed: int

    def data(self) -> tuple[tf.Tensor, tf.Tensor]:
        generator = np.random.default_rng(self.seed)
        images = np.clip(generator.uniform(-0.2, 1.2, size=(EXAMPLES, *self.shape)), 0, 1)
        right = tf.argmax(self(tf.constant(images, tf.float32)), -1, tf.int32)
        wrong = tf.constant(generator.uniform(size=EXAMPLES) < 0.3)
        return tf.cast(images, self.images), tf.where(wrong, (right + 1) % self.classes, right)

    @functools.cached_property
    def layers(self) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(self.seed + 1).normal
        return draw(size=(int(np.prod(self.shape)), 8)).astype("f4"), draw(size=(8, self.classes)).astype("f4")

    def __call__(self, images):
        first, second = self.layers
        return tf.cast(tf.nn.relu(tf.reshape(images, [-1, len(first)]) @ first) @ second, self.logits)

    def wrong(self, images, labels) -> np.ndarray:
        return (tf.argmax(self(images), -1, tf.int32) != labels).numpy()


PROBLEMS = st.builds(
    Problem,
    shape=st.sampled_from([(4, 4, 1), (3, 4, 3), (7,)]),
    classes=st.sampled_from([2, 3, 10]),
    images=st.sampled_from(["float32", "float16", "float64"]),
    logits=st.sampled_from(["float32", "float16", "bfloat16", "float64"]),
    seed=st.integers(0, 10**6),
)
BALLS = st.sampled_from(
    [
        {"eps": eps, "norm": norm}
        for norm, largest in (("linf", 1.0), ("l2", 3.0))
        for eps in (0.0, 0.01, 0.1, 0.5, largest)
    ]
)


def every_try(attack: Attack, problem: Problem, images, labels, seeds) -> tuple[np.ndarray, np.ndarray]:
    """The candidates [tries, n, ...] and their faults [tries, n]."""
    tried = [
        attack.checked_attempt(problem, images, labels, seeds, number)
        for number in range(attack.tries(problem.classes))
    ]
    candidates, faults = zip(*tried)
    assert {batch.dtype for batch in candidates} == {tf.float32}
    return np.stack(candidates), np.stack(faults)


@pytest.mark.parametrize("name", ATTACKS)
@few
@given(problem=PROBLEMS, ball=BALLS, seed=st.integers(0, 2**31 - 1))
def test_inside_ball_and_box_and_the_same_again(name, problem, ball, seed):
    attack = ATTACKS[name](**ball)
    images, labels = problem.data()
    seeds = draws.per_example(seed, tf.range(EXAMPLES))
    candidates, faults = every_try(attack, problem, images, labels, seeds)
    attack.require_sound(faults)
    assert candidates.min() >= 0.0 and candidates.max() <= 1.0  # NaN would fail
    centres = tf.cast(images, tf.float32).numpy()
    change = (candidates - centres).reshape(*faults.shape, -1).astype(np.float64)
    size = np.abs(change).max(-1) if ball["norm"] == "linf" else np.linalg.norm(change, axis=-1)
    assert (size <= ball["eps"] * (1 + 1e-5) + 1e-6).all()
    if ball["eps"] == 0.0:
        np.testing.assert_array_equal(candidates, np.broadcast_to(centres, candidates.shape))
    np.testing.assert_array_equal(every_try(attack, problem, images, labels, seeds)[0], candidates)


@pytest.mark.parametrize("name", ATTACKS)
@few
@given(problem=PROBLEMS, ball=BALLS, order=st.permutations(range(EXAMPLES)), cut=st.integers(1, EXAMPLES - 1))
def test_an_examples_verdict_depends_on_no_other_example(name, problem, ball, order, cut):
    attack = ATTACKS[name](**ball)
    images, labels = problem.data()
    seeds = draws.per_example(5, tf.range(EXAMPLES))

    def verdicts(rows) -> np.ndarray:
        own = [tf.gather(tensor, rows) for tensor in (images, labels, seeds)]
        return np.stack([problem.wrong(batch, own[1]) for batch in every_try(attack, problem, *own)[0]])

    together = verdicts(range(EXAMPLES))
    for rows in (order[:cut], order[cut:]):
        np.testing.assert_array_equal(verdicts(rows), together[:, rows])


@few
@given(
    name=st.sampled_from(sorted(ATTACKS)),
    problem=PROBLEMS,
    ball=BALLS,
    chunk=st.integers(1, EXAMPLES),
    order=st.permutations(range(EXAMPLES)),
)
def test_verdicts_are_never_better_than_the_clean_ones_and_the_same_however_cut(name, problem, ball, chunk, order):
    images, labels = problem.data()
    images, labels = tf.cast(images, tf.float32).numpy(), labels.numpy()
    correct = ~problem.wrong(tf.constant(images), labels)
    predictors = {"model": lambda batch: tf.cast(problem(tf.constant(batch)), tf.float32).numpy()}

    def standing(chunk, rows) -> np.ndarray:
        engine = Engine(ATTACKS[name](**ball), problem, problem.shape, problem.classes, chunk=chunk)
        rows = np.array(rows)
        outcome = engine.run(images[rows], labels[rows], rows, predictors, {"model": correct[rows]}, seed=3)
        return outcome.standing["model"]

    together = standing(EXAMPLES, range(EXAMPLES))
    assert not (together & ~correct).any()
    if ball["eps"] == 0.0:
        np.testing.assert_array_equal(together, correct)
    np.testing.assert_array_equal(standing(chunk, order), together[order])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_compiled_for_an_evaluation(name, norm):
    problem = Problem((4, 4, 1), 3, "float32", "float32", 7)
    images, labels = (tensor.numpy() for tensor in problem.data())
    predictors = {"model": lambda batch: problem(batch).numpy()}
    correct = ~problem.wrong(images, labels)
    assert 0 < correct.sum() < EXAMPLES
    engine = Engine(ATTACKS[name](eps=0.05, norm=norm), problem, problem.shape, problem.classes, chunk=4)

    def standing(rows) -> np.ndarray:
        rows = np.array(rows)
        outcome = engine.run(images[rows], labels[rows], rows, predictors, {"model": correct[rows]}, seed=3)
        return outcome.standing["model"]

    together = standing(range(EXAMPLES))
    assert not together[~correct].any()  # no attack makes a wrong answer right
    for rows in ([0, 1], [2], [5, 4, 3]):
        np.testing.assert_array_equal(standing(rows), together[rows])
    assert engine.traces == len(engine.parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeavesTheBall(Attack):
    """Wrong: steps twice as far as it may."""

    def perturb(self, logits, images, labels, seed, number):
        return images + 2.0 * self.ball.on_sphere(images, self.eps, seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReturnsNaN(Attack):
    """Wrong: divides zero by zero where the gradient vanishes."""

    def perturb(self, logits, images, labels, seed, number):
        gradient = tf.zeros_like(images)
        return images + self.eps * gradient / tf.reduce_max(gradient)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack, what", [(LeavesTheBall, "leave the ball"), (ReturnsNaN, "are not numbers")])
def test_an_evaluation_refuses_a_wrong_attack_by_name(attack, what, norm):
    problem = Problem((4, 4, 1), 3, "float32", "float32", 7)
    images, labels = problem.data()
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(EXAMPLES)
    predictors = {"model": lambda batch: problem(batch).numpy()}
    with pytest.raises(HarpError, match=f"^{attack.__name__} returned wrong candidates: .*{what}"):
        evaluate(problem, batches, {"mine": attack(eps=0.3, norm=norm)}, predictors, 3, findings=[])
