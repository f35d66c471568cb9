"""FAB-T against the official code's distances, a twin in NumPy and closed forms."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import FABTargeted
from harp_tf.attacks.minimum_norm import distances
from harp_tf.types import HarpError

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SEED = tf.constant([7, 0])


class Linear:
    """A random linear network, and images whose nearest adversarial ones lie inside the box."""

    def __init__(self, classes=3, size=40, count=12, seed=0):
        generator = np.random.default_rng(seed)
        self.weights = generator.normal(size=(size, classes)).astype("float32")
        self.bias = -0.5 * self.weights.sum(0)
        self.images = tf.constant(generator.uniform(0.35, 0.65, size=(count, size)), tf.float32)
        self.labels = tf.argmax(self(self.images), -1, tf.int32)
        self.calls = 0

    def __call__(self, images):
        self.calls = getattr(self, "calls", 0) + 1
        return images @ self.weights + self.bias

    def boundaries(self, norm) -> np.ndarray:
        """The distance of each image from the half-space of each class, float64 [n, classes], 0 for its own."""
        logits = self(self.images).numpy().astype(float)
        own = self.labels.numpy()
        normals = self.weights.T[None].astype(float) - self.weights.T[own][:, None]
        sizes = np.abs(normals).sum(-1) if norm == "linf" else np.linalg.norm(normals, axis=-1)
        return (logits[np.arange(len(own)), own][:, None] - logits) / np.maximum(sizes, 1e-9)


def twin(network, attack, rank) -> tuple[np.ndarray, np.ndarray]:
    """The paper's algorithm on a linear network in float64; the projections by bisection."""
    origin = network.images.numpy().astype(float)
    weights, bias = network.weights.astype(float), network.bias.astype(float)
    own = network.labels.numpy()
    target = np.argsort(-(origin @ weights + bias), axis=1)[:, rank]
    normals = (weights[:, target] - weights[:, own]).T
    shift = bias[target] - bias[own]

    def onto(points):
        gaps = -((points * normals).sum(1) + shift)
        rooms = np.where(normals * gaps[:, None] > 0, 1 - points, points)
        unit = np.abs(normals) if attack.norm == "l2" else np.ones_like(normals)
        low, high = np.zeros(len(points)), np.full(len(points), 100.0)
        for _ in range(100):
            middle = (low + high) / 2
            moves = np.sign(normals * gaps[:, None]) * np.minimum(middle[:, None] * unit, rooms)
            enough = np.abs((moves * normals).sum(1)) >= np.abs(gaps)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return moves

    def size(moves):
        return np.abs(moves).max(1) if attack.norm == "linf" else np.linalg.norm(moves, axis=1)

    points, best, distance = origin, origin.copy(), np.full(len(own), np.inf)
    for _ in range(attack.steps):
        here, there = onto(points), onto(origin)
        alpha = np.minimum(size(here) / (size(here) + size(there)), attack.alpha_max)[:, None]
        mixed = (points + attack.eta * here) * (1 - alpha) + (origin + attack.eta * there) * alpha
        points = np.clip(mixed, 0, 1)
        adversarial = (points @ weights + bias).argmax(1) != own
        nearer = adversarial & (size(points - origin) < distance)
        best[nearer], distance[nearer] = points[nearer], size(points - origin)[nearer]
        points = np.where(adversarial[:, None], origin + attack.beta * (points - origin), points)
    return best, distance


def compiled_distances(attack, network, labels=None) -> np.ndarray:
    run = tf.function(lambda x, y: distances(attack, network, x, y, SEED), autograph=False)
    return run(network.images, network.labels if labels is None else labels).numpy()


@pytest.mark.parametrize("settings", [{}, {"alpha_max": 0.4, "eta": 1.3, "beta": 0.5}])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equals_a_hand_written_attack(norm, settings):
    network = Linear(classes=4, size=20)
    for steps, number in ((2, 0), (7, 2)):
        attack = FABTargeted(eps=1.0, norm=norm, steps=steps, **settings)
        points, found = attack.nearest(network, network.images, network.labels, SEED, number, 0.0)
        best, distance = twin(network, attack, number + 1)
        np.testing.assert_allclose(found, distance, rtol=1e-4)
        np.testing.assert_allclose(points, best, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_official_distances(norm):
    # A hundred steps blow rounding errors up: most distances agree to 1e-4, and none is far off.
    model = keras.models.load_model(GOLDEN / "robust_fmnist.keras")
    with np.load(GOLDEN / "apgd_reference.npz") as data:
        images, labels = tf.constant(data["images"][:16] / np.float32(255)), tf.constant(data["labels"][:16])
    with np.load(GOLDEN / "fab_reference.npz") as data:
        expected = data[f"distance_{norm}"]
    attack = FABTargeted(eps=0.1, norm=norm)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)], autograph=False)
    def found(number):
        logits = lambda x: model(x, training=False)  # noqa: E731
        return attack.nearest(logits, images, tf.cast(labels, tf.int32), SEED, number, 0.0)[1]

    errors = np.stack([found(number) for number in (0, 8)]) / expected - 1
    assert np.quantile(np.abs(errors), 0.8) < 1e-4
    assert np.abs(errors).max() < 0.05


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_exact_distance_of_a_linear_network(norm):
    network = Linear(classes=3)
    exact = np.sort(network.boundaries(norm), axis=1)[:, 1]
    assert exact.max() < 0.5
    found = compiled_distances(FABTargeted(eps=0.1, norm=norm), network)
    np.testing.assert_allclose(found, exact, rtol=0.01)
    assert (found >= exact * (1 - 1e-4)).all()


def test_succeeds_within_eps_only():
    network = Linear(classes=3)
    found = compiled_distances(FABTargeted(eps=0.0, steps=30), network)
    eps = float(np.median(found))
    attack = tf.function(FABTargeted(eps=eps, steps=30), autograph=False)
    adversarial = attack(network, network.images, network.labels, SEED).numpy()
    wrong = (tf.argmax(network(adversarial), -1, tf.int32) != network.labels).numpy()
    np.testing.assert_array_equal(wrong, found <= eps)
    assert 0 < wrong.sum() < len(wrong)
    np.testing.assert_array_equal(adversarial[~wrong], network.images[~wrong])
    assert np.abs(adversarial - network.images).max() <= eps + 1e-6


def test_what_is_misclassified_stays_as_it_is():
    network = Linear()
    labels = (network.labels + tf.constant([1, 0] * 6)) % 3
    attack = FABTargeted(eps=0.5, steps=5)
    np.testing.assert_array_equal(attack(network, network.images, labels, SEED)[::2], network.images[::2])
    found = compiled_distances(attack, network, labels)
    assert (found[::2] == 0).all() and (found[1::2] > 0).all()


def test_ends_when_every_image_has_an_adversarial_one_near_enough():
    network = Linear(classes=2)
    network.calls = 0
    FABTargeted(eps=1.0, steps=9).attempt(network, network.images, network.labels, SEED, 0)
    assert network.calls == 3  # clean, the gradient of one step, the verdict on it
    FABTargeted(eps=0.0, steps=9).attempt(network, network.images, network.labels, SEED, 0)
    assert network.calls == 3 + 1 + 2 * 9


def test_every_try_is_after_another_class():
    network = Linear(classes=5, count=4)
    assert FABTargeted(eps=0.1).tries(5) == 4 and FABTargeted(eps=0.1, targets=2).tries(5) == 2
    # One step goes from the image onto the boundary to the target, and 5 % beyond.
    attack = FABTargeted(eps=9.0, norm="l2", steps=1)
    logits = network(network.images).numpy()
    for number in range(4):
        target = np.argsort(-logits, axis=1)[:, number + 1]
        _, found = attack.nearest(network, network.images, network.labels, SEED, number, 0.0)
        np.testing.assert_allclose(found, 1.05 * network.boundaries("l2")[np.arange(4), target], rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"targets": 0}, {"steps": 0}, {"steps": 2.5}, {"alpha_max": 1.5}, {"eta": 0.9}, {"beta": 1.0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(HarpError, match="FABTargeted needs"):
        FABTargeted(eps=0.1, **settings)
