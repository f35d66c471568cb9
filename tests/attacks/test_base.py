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


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.0, 0.1, 2.0])
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
