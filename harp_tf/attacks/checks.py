"""Signs that a robustness figure cannot be trusted: the attack may have failed where a better one would not.

Each check that strikes becomes a finding with a name and a warning in plain words, which goes with every figure that it
concerns. A network that hides its gradients is not robust, only harder to measure.

Reference:
    Athalye et al., Obfuscated Gradients Give a False Sense of Security, ICML 2018.
    Carlini et al., On Evaluating Adversarial Robustness, 2019.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from harp_tf.attacks import draws
from harp_tf.attacks.base import Logits
from harp_tf.attacks.pgd import PGD
from harp_tf.attacks.tally import wilson
from harp_tf.losses.terms import cross_entropy

SAMPLES = 64
"""So many images are looked at: enough to see what is wrong with a model, few enough to cost seconds."""
NO_GRADIENT, NAN_GRADIENTS, BLACK_BOX = "no_gradient", "nan_gradients", "black_box_beats_white_box"
_PASSES = 3
_WIDEST = 0.05  # half the width of a confidence interval, from which on a figure says little
FEW, MUCH = 0.002, 0.02
"""Shares of all examples by which Square may beat a cascade (as in the official AutoAttack), and one single attack."""
_HUGE_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Finding:
    """A check that struck.

    Attributes:
        check: its name, for example "zero_gradients".
        warning: what it means for the figures and what to do, for people.
    """

    check: str
    warning: str

    def as_dict(self) -> dict[str, str]:
        """The fields as a JSON-serialisable dict."""
        return dataclasses.asdict(self)


def of_model(logits: Logits, images: np.ndarray, labels: np.ndarray, norm: str) -> list[Finding]:
    """The checks that concern a model and so every attack on it.

    Args:
        logits: the model, as for attacks.
        images: float32 [n >= 1, ...] in [0, 1]; the first `SAMPLES` are used.
        labels: int32 [n].
        norm: of the threat model.

    Returns:
        What was found, nothing at best.
    """
    shown, true = tf.constant(images[:SAMPLES]), tf.constant(labels[:SAMPLES])
    constant = _one_class(logits, shown, true)
    return [*without_gradient(logits, images), *constant, *_gradients(logits, shown, true, norm, not constant)]


def without_gradient(logits: Logits, images: np.ndarray) -> list[Finding]:
    """Those of the checks of `of_model` that need no gradient, for a model that has none; arguments as there."""
    shown = tf.constant(images[:SAMPLES])
    return [*_randomised(logits, shown), *_bounded(logits, shown)]


def too_few(right: int, total: int) -> list[Finding]:
    """Whether `right` correct answers of `total` say little about the network."""
    low, high = wilson(right, total)
    if (high - low) / 2 <= _WIDEST:
        return []
    return [
        Finding(
            "too_few_samples",
            f"Measured on {total} images only, which leaves the true accuracy open by more than {100 * _WIDEST:.0f} "
            "points either way (at 95 % confidence). Attack 1,000 or more before comparing models.",
        )
    ]


def black_box_beats_white_box(before: int, after: int, total: int, share: float) -> list[Finding]:
    """Whether Square, which sees no gradient, fools the network on examples that gradient attacks left standing.

    Args:
        before: examples standing after the gradient attacks.
        after: examples of those standing after Square as well.
        total: examples attacked.
        share: of all examples, by which Square may do better: `FEW` or `MUCH`.
    """
    if before - after < 2 or before - after <= share * total:
        return []
    return [
        Finding(
            BLACK_BOX,
            f"Square, which sees no gradient, fooled the network on {before - after} of the {before} images that the "
            "gradient attacks left standing: those are too weak, or the network masks its gradients. What gradient "
            "attacks say is too high by as much, and what stands after Square may still fall: run autoattack, Square "
            "with more queries (square20000), or an attack adapted to the network.",
        )
    ]


def attackable(logits: Logits) -> Logits:
    """The same function with a gradient of 0 where it has none, or no number: attacks run, and get nowhere."""

    @tf.custom_gradient
    def cleaned(images: tf.Tensor) -> tuple:
        return tf.identity(images), lambda upstream: tf.where(tf.math.is_finite(upstream), upstream, 0.0)

    def with_gradient(images: tf.Tensor) -> tf.Tensor:
        nothing = 0.0 * tf.reduce_sum(images, axis=list(range(1, len(images.shape))))
        return logits(cleaned(images)) + nothing[:, None]

    return with_gradient


def _randomised(logits: Logits, images: tf.Tensor) -> list[Finding]:
    first = logits(images).numpy()
    # Sums in another order, on other threads, may differ in the last bits.
    tolerance = 1e-4 * max(float(np.abs(first).max()), 1e-6)
    if all(np.abs(logits(images).numpy() - first).max() <= tolerance for _ in range(_PASSES - 1)):
        return []
    return [
        Finding(
            "randomised",
            "The network answers the same image differently each time. Attacks follow one draw of a moving target "
            "and fail; figures are too high and not repeatable. Use autoattack-rand, which averages gradients.",
        )
    ]


def _bounded(logits: Logits, images: tf.Tensor) -> list[Finding]:
    # Far outside of what images can be, real logits grow with their input; probabilities and tanh cannot.
    outputs = [logits(images * scale).numpy().astype(np.float64) for scale in (1.0, 1e3, -1e3)]
    clean = outputs[0]
    if (clean >= 0).all() and np.allclose(clean.sum(-1), 1.0, atol=1e-3):
        what = "probabilities (a softmax)"
    elif all(np.abs(values).max() <= 1.0 + 1e-6 for values in outputs):
        what = "numbers that never leave [-1, 1] (a sigmoid, a tanh, or normalised outputs)"
    else:
        return []
    return [
        Finding(
            "bounded_outputs",
            f"The network returns {what} in place of logits. Gradients through them vanish, so attacks fail "
            "where the network is not robust. Give the attacks the numbers before the last activation.",
        )
    ]


def one_answer(answers: np.ndarray, labels: np.ndarray) -> bool:
    """Whether images of several classes all got the same one; both are class indices [n]."""
    return len(np.unique(answers)) == 1 < len(np.unique(labels))


def _one_class(logits: Logits, images: tf.Tensor, labels: tf.Tensor) -> list[Finding]:
    answers = logits(images).numpy().argmax(-1)
    if not one_answer(answers, labels.numpy()):
        return []
    return [
        Finding(
            "one_class",
            f"The network gives all {len(answers)} images the same class, {answers[0]}. It has learned nothing, has "
            "collapsed, or wants other pixels than those in [0, 1] (from 0 to 255?). Its accuracy, clean and under "
            "attack, is the share of that class, and says nothing about robustness.",
        )
    ]


def _gradients(logits: Logits, images: tf.Tensor, labels: tf.Tensor, norm: str, huge: bool) -> list[Finding]:
    """What is wrong with gradients; `huge`: whether an attack with room for any image must bring accuracy to 0."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        loss = cross_entropy(tf.cast(logits(images), tf.float32), labels)  # as attacks see them
    gradient = tape.gradient(loss, images)
    if gradient is None:
        return [
            Finding(
                NO_GRADIENT,
                "The network's logits have no gradient with respect to the images (rounding, a cast to integers or an "
                "argmax cuts it). Attacks that follow gradients measure nothing: trust only what square says, or "
                "attack the network with a smooth stand-in for that step.",
            )
        ]
    rows = gradient.numpy().reshape(len(images), -1)
    found = []
    broken = int((~np.isfinite(rows)).any(1).sum())
    if broken:
        found.append(
            Finding(
                NAN_GRADIENTS,
                f"For {broken} of {len(rows)} images the gradient is not a number. Attacks stop moving there and the "
                "figures are too high. Look for divisions by zero, square roots of 0 and logarithms in the network.",
            )
        )
    dead = int((rows == 0).all(1).sum())
    if dead:
        found.append(
            Finding(
                "zero_gradients",
                f"For {dead} of {len(rows)} images the gradient of the cross-entropy is exactly 0: quantised inputs, "
                "saturated activations, or logits so large that the softmax rounds to 1. Attacks on cross-entropy "
                "cannot move there, and figures such as pgd20 are too high. Trust apgd-t and square more.",
            )
        )
    return [*found, *_huge(logits, images, labels, norm)] if huge and not broken else found


def _huge(logits: Logits, images: tf.Tensor, labels: tf.Tensor, norm: str) -> list[Finding]:
    """Inside a ball that holds every image at all, an attack that works finds one of another class."""
    eps = 1.0 if norm == "linf" else math.sqrt(float(np.prod(images.shape[1:])))
    attack = PGD(eps=eps, norm=norm, step_size=eps / 10, steps=_HUGE_STEPS)
    craft = tf.function(lambda x, y, seed: attack(logits, x, y, seed), autograph=False)
    candidates = craft(images, labels, draws.per_example(0, tf.range(len(images))))
    standing = int((logits(candidates).numpy().argmax(-1) == labels.numpy()).sum())
    if standing == 0:
        return []
    return [
        Finding(
            "not_zero_at_huge_eps",
            f"With a radius that lets the attack replace the whole image, the network still classifies {standing} of "
            f"{len(images)} images correctly. No network can, so the gradients mislead the attack, and figures at "
            "smaller radii are too high as well.",
        )
    ]
