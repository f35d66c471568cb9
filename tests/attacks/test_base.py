"""What the base of all attacks guarantees, whatever an attack returns."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD, Attack
from harp_tf.types import HarpError

IMAGES = tf.random.stateless_uniform([6, 5, 5, 3], [1, 2])
LABELS = tf.zeros([6], tf.int32)
SEED = tf.constant([0, 0])


def two_logits(images):
    return tf.zeros([tf.shape(images)[0], 2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Astray(Attack):
    """Leaves the ball and the box."""

    def perturb(self, logits, images, labels, seed, number):
        return images + 10.0 * tf.random.stateless_normal(tf.shape(images), seed)


def test_a_radius_in_8_bit_pixels_is_refused():
    with pytest.raises(
        HarpError, match="at most 1 for the norm linf, received 8.*Divide a radius in 8-bit pixels by 255"
    ):
        Astray(eps=8)
    assert Astray(eps=8, norm="l2").eps == 8


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0])
def test_an_attack_that_leaves_the_ball_is_brought_back(norm, eps):
    adversarial = Astray(eps=eps, norm=norm)(two_logits, IMAGES, LABELS, SEED)
    change = (adversarial - IMAGES).numpy().reshape(6, -1)
    size = np.abs(change).max(1) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert (size <= eps + 1e-6).all()
    assert 0.0 <= adversarial.numpy().min() and adversarial.numpy().max() <= 1.0
    if eps:
        assert (size > eps / 4).all()


def test_projection_takes_the_nearest_point_and_then_the_box():
    attack = Astray(eps=0.5, norm="l2")
    images = tf.constant([[0.5, 0.5], [0.9, 0.5]])
    candidates = images + tf.constant([[3.0, 4.0], [3.0, 4.0]])
    np.testing.assert_allclose(attack.project(candidates, images), [[0.8, 0.9], [1.0, 0.9]], rtol=1e-6)


def checked(attack, images=IMAGES):
    labels = tf.zeros([len(images)], tf.int32)
    candidates, faults = tf.function(attack.checked_attempt)(two_logits, images, labels, SEED, 0)
    np.testing.assert_array_equal(candidates, attack.attempt(two_logits, images, labels, SEED, 0))
    return faults.numpy()


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 1.0)])
def test_an_attack_that_leaves_the_ball_is_caught_by_name(norm, eps):
    attack = Astray(eps=eps, norm=norm)
    assert (checked(attack) > 0).all()
    with pytest.raises(HarpError, match="^Astray returned wrong candidates: of 6, .*leave the b"):
        attack.require_sound(checked(attack))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Undefined(Attack):
    """Returns NaN where the first pixel is below one half."""

    def perturb(self, logits, images, labels, seed, number):
        return tf.where(images[:, :1, :1, :1] < 0.5, float("nan"), images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_that_returns_nan_is_caught_by_name(norm):
    attack = Undefined(eps=0.1, norm=norm)
    expected = np.where(IMAGES[:, 0, 0, 0] < 0.5, 1, 0)
    np.testing.assert_array_equal(checked(attack), expected)
    with pytest.raises(HarpError, match=rf"^Undefined returned .*: of 6, {expected.sum()} are not numbers \(NaN\)"):
        attack.require_sound(checked(attack))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    """Adds a number to every pixel."""

    by: float

    def perturb(self, logits, images, labels, seed, number):
        return images + self.by


@pytest.mark.parametrize("norm, eps", [("linf", 0.2), ("l2", 0.2 * 75**0.5)])
def test_each_fault_is_told_from_the_others_and_from_rounding(norm, eps):
    grey, black = tf.fill([1, 5, 5, 3], 0.5), tf.zeros([1, 5, 5, 3])
    images = tf.concat([grey, black], 0)
    kinds = {-0.2 * (1 + 1e-6): [0, 3], 0.2 * (1 + 1e-6): [0, 0], 0.21: [2, 2], -0.21: [2, 2], 0.0: [0, 0]}
    for by, expected in kinds.items():
        assert checked(Shift(eps=eps, norm=norm, by=by), images).tolist() == expected
    sound = Shift(eps=eps, norm=norm, by=0.1)
    sound.require_sound(checked(sound, images))
    with pytest.raises(HarpError, match="of 2, 1 leave the ball around the image and 1 leave the box"):
        sound.require_sound(np.array([2, 3]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Half(Attack):
    """Fails unless it is shown float32 logits."""

    def perturb(self, logits, images, labels, seed, number):
        assert images.dtype == logits(images).dtype == tf.float32
        return images


@pytest.mark.parametrize("dtype", [tf.float16, tf.float64])
def test_attacks_see_float32_logits_of_models_of_any_precision(dtype):
    Half(eps=0.1).attempt(lambda x: tf.cast(two_logits(x), dtype), tf.cast(IMAGES, dtype), LABELS, SEED, 0)


def test_nothing_to_note_unless_an_attack_says_so():
    assert Half(eps=0.1).note(2) == ""


def test_no_gradient_flows_through_an_attack():
    scale = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        adversarial = Astray(eps=0.1)(two_logits, scale * IMAGES, LABELS, SEED)
    assert tape.gradient(adversarial, [scale, IMAGES]) == [None, None]


def test_images_become_float32():
    images = tf.cast(IMAGES, tf.float16)
    assert Astray(eps=0.1)(two_logits, images, LABELS, SEED).dtype == tf.float32


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_a_radius_out_of_range_is_refused(eps):
    with pytest.raises(HarpError, match="eps must be a radius >= 0 in units of"):
        Astray(eps=eps)


def test_an_unknown_norm_is_refused():
    with pytest.raises(HarpError, match="norm must be one of"):
        Astray(eps=0.1, norm="l0")


def test_settings_as_a_record():
    record = PGD(eps=0.1, steps=3).as_dict()
    assert record == {
        "attack": "pgd",
        "eps": 0.1,
        "norm": "linf",
        "step_size": 0.025,
        "steps": 3,
        "objective": "cross_entropy",
        "start": "uniform",
        "restarts": 1,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Second(Attack):
    """Changes nothing in its first try and all pixels by eps in its second."""

    def tries(self, num_classes):
        return num_classes

    def perturb(self, logits, images, labels, seed, number):
        return images + self.eps * tf.cast(tf.equal(number, 1), tf.float32)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_first_try_that_succeeds_counts(compiled):
    def by_brightness(images):  # class 1 from a mean brightness of 0.5 on
        light = tf.reduce_mean(images, [1, 2, 3]) - 0.5
        return tf.stack([-light, light, light - 9.0], 1)

    attack = Second(eps=0.3)
    run = tf.function(attack) if compiled else attack
    images = tf.stack([tf.fill([2, 2, 1], 0.4), tf.fill([2, 2, 1], 0.1)])
    adversarial = run(by_brightness, images, tf.constant([0, 0]), SEED)
    # The first image falls at the second try and stays; nothing fools the network on the other.
    np.testing.assert_allclose(adversarial[0], images[0] + 0.3)
    np.testing.assert_allclose(adversarial[1], images[1])
