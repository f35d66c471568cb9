"""The Square attack against a twin without short cuts, on networks whose answer is known, and on black boxes."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import Square, draws
from harp_tf.attacks.square_moves import L2Moves, LinfMoves
from harp_tf.types import HarpError

NORMS = ["linf", "l2"]
SEEDS = draws.per_example(3, tf.range(12))


class Network:
    """A random network of two layers that counts the images that it is asked about."""

    def __init__(self, shape=(6, 6, 1), classes=3, seed=0, count=12):
        generator = np.random.default_rng(seed)
        self.first = generator.normal(size=(int(np.prod(shape)), 16)).astype("float32")
        self.second = generator.normal(size=(16, classes)).astype("float32")
        self.images = tf.constant(generator.uniform(size=(count, *shape)), tf.float32)
        self.labels = tf.argmax(self(self.images), -1, tf.int32)
        self.asked = tf.Variable(0)

    def __call__(self, images):
        if hasattr(self, "asked"):
            self.asked.assign_add(tf.shape(images)[0])
        return self.numpy(tf.reshape(images, [-1, len(self.first)]), tf.tanh)

    def numpy(self, images, tanh=np.tanh):
        return tanh(images @ self.first) @ self.second

    def margins(self, images) -> np.ndarray:
        logits = self.numpy(np.asarray(images).reshape(len(images), -1))
        own = np.eye(logits.shape[1], dtype=bool)[self.labels.numpy()[: len(images)]]
        return np.where(own, -np.inf, logits).max(1) - logits[own]


def attacked(attack, network, rows=slice(None), logits=None) -> np.ndarray:
    run = tf.function(lambda *batch: attack.attempt(logits or network, *batch, 0), autograph=False)
    return run(network.images[rows], network.labels[rows], SEEDS[rows]).numpy()


def twin(attack, network) -> tuple[np.ndarray, int]:
    """Random search over the same moves with every query made; also how many of the queries were needed."""
    shape = network.images.shape[1:].as_list()
    moves = {"linf": LinfMoves, "l2": L2Moves}[attack.norm](shape, attack.eps, attack.queries, attack.p_init, SEEDS)
    points = moves.start(network.images).numpy()
    best = network.margins(points)
    needed = 0
    for query in range(attack.queries):
        moved = moves.move(tf.constant(query), tf.constant(points), network.images).numpy()
        margins = network.margins(moved)
        changed = (moved != points).any(axis=(1, 2, 3)) | (attack.norm == "l2")
        needed += int(((best < 0) & changed).sum())
        better = (best < 0) & (margins > best)
        points[better], best[better] = moved[better], margins[better]
    return points, needed


@pytest.mark.parametrize("norm, eps", [("linf", 0.06), ("l2", 0.3)])
def test_equals_a_search_without_short_cuts(norm, eps):
    network = Network()
    attack = Square(eps=eps, norm=norm, queries=120)
    adversarial = attacked(attack, network)
    expected, needed = twin(attack, network)
    np.testing.assert_allclose(adversarial, expected, atol=1e-5)
    fallen = network.margins(adversarial) > 0
    assert 0 < fallen.sum() < len(fallen)
    # No query after success and, in L-inf, none that would change nothing; the clean images and the starts come on top.
    assert needed < (0.95 if norm == "linf" else 1.0) * len(fallen) * attack.queries
    assert network.asked.numpy() == needed + 2 * len(fallen)


@pytest.mark.parametrize("norm, eps", [("linf", 0.06), ("l2", 0.3)])
@pytest.mark.parametrize("shape", [(6, 6, 1), (36,), (4, 3, 3)])
def test_every_query_raises_the_margin_or_is_dropped(norm, eps, shape):
    network = Network(shape)
    margins = [network.margins(attacked(Square(eps=eps, norm=norm, queries=q), network)) for q in (1, 20, 150)]
    assert (margins[1] >= margins[0] - 1e-5).all() and (margins[2] >= margins[1] - 1e-5).all()
    assert (margins[2] > network.margins(network.images)).mean() > 0.9
    assert (margins[2] > 0).sum() > (margins[0] > 0).sum()


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_a_black_box_gets_the_same_images(norm):
    network = Network()

    def black_box(images):
        def ask(batch):
            assert isinstance(batch, np.ndarray)
            return network.numpy(batch.reshape(len(batch), -1))

        return tf.ensure_shape(tf.numpy_function(ask, [images], tf.float32), [None, 3])

    attack = Square(eps=0.05, norm=norm, queries=60)
    np.testing.assert_allclose(attacked(attack, network, logits=black_box), attacked(attack, network), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_neither_batch_nor_order_matters(norm):
    network = Network()
    attack = Square(eps=0.1, norm=norm, queries=60)
    together = attacked(attack, network)
    for rows in (slice(3, 4), slice(None, None, -1)):
        np.testing.assert_allclose(attacked(attack, network, rows), together[rows], atol=1e-6)


def test_a_linear_network_falls_to_the_corner_of_the_ball():
    """Few places, many queries: the search finds the best of all corners."""
    generator = np.random.default_rng(1)
    weights = generator.normal(size=(9, 1)).astype("float32")
    images = tf.fill([2, 3, 3, 1], 0.5)

    def logits(x):
        height = tf.reshape(x - 0.5, [-1, 9]) @ weights - 100.0
        return tf.concat([-height, height], 1)

    attack = Square(eps=0.2, queries=400)
    found = tf.function(lambda x: attack.attempt(logits, x, tf.constant([0, 0]), SEEDS[:2], 0), autograph=False)(images)
    expected = 0.5 + 0.2 * np.sign(weights.reshape(3, 3, 1))
    np.testing.assert_allclose(found, [expected, expected], atol=1e-6)


def test_radius_zero_and_misclassified_images_change_nothing():
    network = Network()
    for norm in NORMS:
        np.testing.assert_array_equal(attacked(Square(eps=0.0, norm=norm, queries=5), network), network.images)
        wrong = (network.labels + 1) % 3
        attack = Square(eps=0.5, norm=norm, queries=5)
        np.testing.assert_array_equal(attack(network, network.images, wrong, SEEDS), network.images)


def test_a_tie_that_the_label_wins_is_no_success():
    """Quantised logits tie often; the search has to go on."""

    def logits(x):  # brightness in steps, class 0 up to a tie
        light = tf.round(tf.reduce_sum(x, [1, 2, 3]) - 8.0)
        return tf.stack([tf.zeros_like(light), light], 1)

    images = tf.fill([1, 4, 4, 1], 0.5)
    attack = Square(eps=0.1, queries=200)
    found = tf.function(lambda x: attack.attempt(logits, x, tf.constant([0]), SEEDS[:1], 0), autograph=False)(images)
    assert logits(found).numpy()[0, 1] > 0


@pytest.mark.parametrize("settings", [{"queries": 0}, {"queries": 1.5}, {"p_init": 0.0}, {"p_init": 1.5}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(HarpError, match="Square needs"):
        Square(eps=0.1, **settings)
