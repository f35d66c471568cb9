"""FMN against closed forms, and the security curve that follows from one run."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import FMN, PGD
from harp_tf.attacks.minimum_norm import distances
from harp_tf.types import HarpError

SEED = tf.constant([7, 0])


class Linear:
    """A random network of two classes whose boundary is a hyperplane through the middle of the box."""

    def __init__(self, size=60, count=10, seed=0, bend=0.0):
        generator = np.random.default_rng(seed)
        self.normal = generator.normal(size=size).astype("float32")
        self.bend = bend
        self.images = tf.constant(generator.uniform(0.3, 0.7, size=(count, size)), tf.float32)
        self.labels = tf.argmax(self(self.images), -1, tf.int32)
        self.calls = 0

    def __call__(self, images):
        self.calls = getattr(self, "calls", 0) + 1
        height = tf.linalg.matvec(images - 0.5, self.normal)
        height += self.bend * height**3
        return tf.stack([-height, height], 1)

    def exact(self, norm) -> np.ndarray:
        height = np.abs((self.images.numpy().astype(float) - 0.5) @ self.normal)
        return height / (np.abs(self.normal).sum() if norm == "linf" else np.linalg.norm(self.normal))


def compiled_distances(attack, network) -> np.ndarray:
    run = tf.function(lambda x, y: distances(attack, network, x, y, SEED), autograph=False)
    return run(network.images, network.labels).numpy()


@pytest.mark.parametrize("bend", [0.0, 1.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_exact_distance(norm, bend):
    network = Linear(bend=bend)
    found = compiled_distances(FMN(eps=0.1, norm=norm), network)
    np.testing.assert_allclose(found, network.exact(norm), rtol=0.01)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_box_is_obeyed_where_it_binds(norm):
    """Of two equal coordinates one has no room: the other has to go all the way."""
    images, labels = tf.constant([[1.0, 0.4], [1.0, 0.45]]), tf.constant([0, 0])

    def logits(x):
        height = tf.reduce_sum(x, axis=1) - 1.6
        return tf.stack([-height, height], 1)

    attack = FMN(eps=0.3, norm=norm)
    points, found = tf.function(lambda x: attack.nearest(logits, x, labels, SEED, 0, 0.0), autograph=False)(images)
    np.testing.assert_allclose(found, [0.2, 0.15], rtol=0.01)
    assert points.numpy().max() <= 1.0
    np.testing.assert_allclose(points, [[1.0, 0.6], [1.0, 0.6]], rtol=0.01)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_run_gives_the_curve_that_an_attack_at_every_radius_gives(norm):
    network = Linear(count=40, seed=3)
    found = compiled_distances(FMN(eps=0.1, norm=norm), network)
    for eps in np.quantile(found, [0.1, 0.5, 0.9]) * 1.02:
        attack = PGD(eps=float(eps), norm=norm, steps=10, start="clean")
        wrong = (
            tf.argmax(network(attack(network, network.images, network.labels, SEED)), -1, tf.int32) != network.labels
        )
        assert abs(np.mean(found <= eps) - np.mean(wrong)) <= 0.025


def test_succeeds_within_eps_only():
    network = Linear()
    exact = network.exact("linf")
    eps = float(np.median(exact))
    adversarial = tf.function(FMN(eps=eps), autograph=False)(network, network.images, network.labels, SEED).numpy()
    wrong = (tf.argmax(network(adversarial), -1, tf.int32) != network.labels).numpy()
    np.testing.assert_array_equal(wrong, exact < eps)
    assert 0 < wrong.sum() < len(wrong)
    np.testing.assert_array_equal(adversarial[~wrong], network.images[~wrong])


def test_what_is_misclassified_is_at_distance_zero_and_stays():
    network = Linear()
    labels = tf.concat([1 - network.labels[:5], network.labels[5:]], 0)
    points, found = FMN(eps=0.5, steps=20).nearest(network, network.images, labels, SEED, 0, 0.0)
    np.testing.assert_array_equal(found[:5], np.zeros(5))
    np.testing.assert_array_equal(points[:5], network.images[:5])
    assert (found.numpy()[5:] > 0).all()


def test_a_network_that_nothing_fools_is_infinitely_far_away():
    images = tf.fill([3, 4], 0.5)

    def logits(x):  # class 0 everywhere
        light = tf.reduce_mean(x, axis=1)
        return tf.stack([10.0 + light, light], 1)

    found = distances(FMN(eps=0.5, steps=10), logits, images, tf.zeros(3, tf.int32), SEED)
    assert np.isposinf(found).all()
    np.testing.assert_array_equal(FMN(eps=0.5, steps=10)(logits, images, tf.zeros(3, tf.int32), SEED), images)


def test_ends_when_every_image_has_an_adversarial_one_near_enough():
    network = Linear()
    network.calls = 0
    FMN(eps=1.0).attempt(network, network.images, network.labels, SEED, 0)
    assert network.calls < 5
    network.calls = 0
    FMN(eps=0.0, steps=30).attempt(network, network.images, network.labels, SEED, 0)
    assert network.calls == 30


def test_logits_of_half_precision():
    network = Linear()
    attack = FMN(eps=0.1, steps=10)
    found = distances(attack, lambda x: tf.cast(network(x), tf.float16), network.images, network.labels, SEED)
    np.testing.assert_allclose(found, network.exact("linf"), rtol=0.1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_compiled_with_an_open_batch_dimension(norm):
    network = Linear()
    attack = FMN(eps=0.1, norm=norm, steps=10)

    @tf.function(input_signature=[tf.TensorSpec([None, 60]), tf.TensorSpec([None], tf.int32)], autograph=False)
    def compiled(images, labels):
        return distances(attack, network, images, labels, SEED)

    expected = distances(attack, network, network.images, network.labels, SEED)
    for count in (10, 3):
        found = compiled(network.images[:count], network.labels[:count])
        np.testing.assert_allclose(found, expected[:count], rtol=1e-4)
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("settings", [{"steps": 0}, {"step_size": 0.0}, {"gamma": 0.0}, {"gamma": 1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(HarpError, match="FMN needs"):
        FMN(eps=0.1, **settings)
