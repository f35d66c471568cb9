"""PGD and FGSM against hand-written twins, compiled, and with every iterate watched."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import FGSM, PGD
from harp_tf.types import HarpError

SEED = tf.constant([7, 0])
CLASSES = 4


class Network:
    """A random two-layer network; `linear=True` leaves one layer. Keeps every batch that it saw."""

    def __init__(self, shape=(5, 5, 1), linear=False, seed=0):
        generator = np.random.default_rng(seed)
        pixels = int(np.prod(shape))
        hidden = CLASSES if linear else 12
        self.first = (3 * generator.normal(size=(pixels, hidden)) / np.sqrt(pixels)).astype("float32")
        self.second = None if linear else generator.normal(size=(hidden, CLASSES)).astype("float32")
        self.images = tf.constant(generator.uniform(size=(8, *shape)).astype("float32"))
        self.labels = tf.argmax(self(self.images), -1, output_type=tf.int32)
        self.seen: list[tf.Tensor] = []

    def __call__(self, images):
        if hasattr(self, "seen"):
            self.seen.append(images)
        out = tf.reshape(images, [tf.shape(images)[0], self.first.shape[0]]) @ self.first
        return out if self.second is None else tf.nn.softplus(out) @ self.second

    def attacked(self, attack, seed=SEED):
        return attack(self, self.images, self.labels, seed)

    def success(self, attack) -> float:
        wrong = tf.argmax(self(self.attacked(attack)), -1, output_type=tf.int32) != self.labels
        return float(tf.reduce_mean(tf.cast(wrong, tf.float32)))

    def loss(self, images) -> float:
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, self(images))
        return float(tf.reduce_mean(values))


def sizes(change, norm) -> np.ndarray:
    change = np.asarray(change, np.float64).reshape(len(change), -1)
    return np.abs(change).max(1) if norm == "linf" else np.linalg.norm(change, axis=1)


def softmax(z) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def twin(network, start, *, norm, eps, step_size, steps, objective) -> np.ndarray:
    """PGD on a linear network in float64 NumPy, with the gradient written out."""
    images = network.images.numpy().astype("float64").reshape(8, -1)
    weights = network.first.astype("float64")
    clean = softmax(images @ weights)
    true = np.eye(CLASSES)[network.labels.numpy()]

    def slope(logits):
        if objective == "margin":
            return np.eye(CLASSES)[np.argmax(np.where(true, -np.inf, logits), axis=1)] - true
        return softmax(logits) - (true if objective == "cross_entropy" else clean)

    def project(candidates):
        delta = candidates - images
        if norm == "linf":
            delta = np.clip(delta, -eps, eps)
        else:
            delta *= np.minimum(1, eps / np.maximum(np.linalg.norm(delta, axis=1, keepdims=True), 1e-12))
        return np.clip(images + delta, 0, 1)

    candidates = project(start.reshape(8, -1).astype("float64"))
    for _ in range(steps):
        gradient = slope(candidates @ weights) @ weights.T
        if norm == "linf":
            direction = np.sign(gradient)
        else:
            direction = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
        candidates = project(candidates + step_size * direction)
    return candidates.reshape(network.images.shape)


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
@pytest.mark.parametrize(
    "objective, start",
    [("cross_entropy", "uniform"), ("cross_entropy", "clean"), ("margin", "uniform"), ("kl", "normal")],
)
def test_equals_a_hand_written_attack(norm, eps, objective, start):
    network = Network(linear=True)
    settings = {"norm": norm, "eps": eps, "step_size": eps / 3, "steps": 5, "objective": objective}
    attack = PGD(start=start, **settings)
    adversarial = network.attacked(attack)
    noise = {
        "uniform": attack.ball.random(network.images, eps, SEED),
        "normal": 0.001 * tf.random.stateless_normal(network.images.shape, SEED),
        "clean": tf.zeros_like(network.images),
    }
    expected = twin(network, (network.images + noise[start]).numpy(), **settings)
    # So near the clean image the gradient of KL is a difference of almost equal float32 probabilities.
    np.testing.assert_allclose(adversarial, expected, atol=1e-3 if objective == "kl" else 2e-5)
    assert sizes(adversarial - network.images, norm).min() > eps / 3


@pytest.mark.parametrize("norm, eps", [("linf", 0.15), ("l2", 1.0)])
@pytest.mark.parametrize("start", ["uniform", "normal", "clean"])
@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 4, 3), (10,)])
def test_the_start_and_every_step_stay_inside_ball_and_box(norm, eps, start, shape):
    network = Network(shape)
    adversarial = network.attacked(PGD(eps=eps, norm=norm, steps=6, step_size=eps, start=start))
    assert len(network.seen) == 6
    for batch in [*network.seen, adversarial]:
        assert (sizes(batch - network.images, norm) <= eps + 1e-6).all()
        assert batch.numpy().min() >= 0.0 and batch.numpy().max() <= 1.0
    clean = sizes(network.seen[0] - network.images, norm)
    assert (clean == 0).all() if start == "clean" else (clean > 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radius_zero_changes_nothing(norm):
    network = Network()
    np.testing.assert_array_equal(network.attacked(PGD(eps=0.0, norm=norm, steps=3)), network.images)
    np.testing.assert_array_equal(network.attacked(FGSM(eps=0.0, norm=norm)), network.images)


@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_the_seed_decides(start):
    network = Network()
    attack = PGD(eps=0.1, steps=2, start=start)
    first = network.attacked(attack)
    np.testing.assert_array_equal(first, network.attacked(attack))
    for other in ([7, 1], [8, 0]):
        assert np.abs(first - network.attacked(attack, tf.constant(other))).max() > 1e-4


def test_every_restart_begins_elsewhere_and_the_first_where_one_try_does():
    network = Network()
    attack = PGD(eps=0.1, steps=2, restarts=3)
    assert attack.tries(CLASSES) == 3
    tries = [attack.attempt(network, network.images, network.labels, SEED, number) for number in range(3)]
    np.testing.assert_array_equal(tries[0], network.attacked(PGD(eps=0.1, steps=2)))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(tries[one] - tries[other]).max(axis=(1, 2, 3)).min() > 1e-3


def test_an_example_is_broken_when_any_restart_breaks_it():
    network = Network(seed=2)
    attack = PGD(eps=0.2, steps=2, step_size=0.05, restarts=6)

    def broken(images):
        return (tf.argmax(network(images), -1, tf.int32) != network.labels).numpy()

    alone = [broken(attack.attempt(network, network.images, network.labels, SEED, number)) for number in range(6)]
    together = broken(network.attacked(attack))
    np.testing.assert_array_equal(together, np.any(alone, axis=0))
    assert together.sum() > np.sum(alone, axis=1).max()  # no single restart would have done


@pytest.mark.parametrize("settings", [{"restarts": 0}, {"restarts": 1.5}, {"restarts": 2, "start": "clean"}], ids=str)
def test_restarts_out_of_range_are_refused(settings):
    with pytest.raises(HarpError, match="whole number of restarts >= 1, and just one from the clean image"):
        PGD(eps=0.1, **settings)


@pytest.mark.parametrize("norm, eps", [("linf", 0.2), ("l2", 1.2)])
def test_more_steps_do_more_harm(norm, eps):
    network = Network(seed=2)
    attacks = [PGD(eps=eps, norm=norm, step_size=eps / 10, steps=steps, start="clean") for steps in (1, 4, 20)]
    losses = [network.loss(network.images), *(network.loss(network.attacked(attack)) for attack in attacks)]
    assert all(later > earlier + 0.02 for earlier, later in zip(losses, losses[1:]))
    successes = [network.success(attack) for attack in attacks]
    assert successes == sorted(successes) and successes[-1] > successes[0]


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.5)])
def test_fgsm_is_one_step_of_full_length(norm, eps):
    network = Network(linear=True)
    expected = twin(
        network, network.images.numpy(), norm=norm, eps=eps, step_size=eps, steps=1, objective="cross_entropy"
    )
    np.testing.assert_allclose(network.attacked(FGSM(eps=eps, norm=norm)), expected, atol=1e-6)
    assert len(network.seen) == 1


def test_the_clean_prediction_of_the_kl_objective_is_made_once():
    network = Network()
    network.attacked(PGD(eps=0.1, steps=4, objective="kl", start="normal"))
    assert len(network.seen) == 5
    np.testing.assert_array_equal(network.seen[0], network.images)


@pytest.mark.parametrize("jit, start", [(False, "uniform"), (True, "clean")])
@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
def test_compiled_with_an_open_batch_dimension(norm, eps, jit, start):
    network = Network((4, 4, 3))
    crafted = compiled(network, PGD(eps=eps, norm=norm, steps=3, start=start), jit_compile=jit)
    for count in (8, 1):
        images, labels = network.images[:count], network.labels[:count]
        expected = PGD(eps=eps, norm=norm, steps=3, start=start)(network, images, labels, SEED)
        np.testing.assert_allclose(crafted(images, labels, SEED), expected, atol=1e-5)
    assert crafted.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
def test_compiled_by_xla_with_a_random_start(norm, eps):
    network = Network((3, 3, 1))
    crafted = compiled(network, PGD(eps=eps, norm=norm, steps=2), jit_compile=True)
    adversarial, again, other = (
        crafted(network.images, network.labels, tf.constant(seed)) for seed in ([7, 0], [7, 0], [7, 1])
    )
    np.testing.assert_array_equal(adversarial, again)
    assert np.abs(adversarial - other).max() > 1e-4
    change = sizes(adversarial - network.images, norm)
    assert change.max() <= eps + 1e-6 and change.min() > eps / 4
    assert adversarial.numpy().min() >= 0.0 and adversarial.numpy().max() <= 1.0


def compiled(network, attack, **options):
    signature = [
        tf.TensorSpec([None, *network.images.shape[1:]], tf.float32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([2], tf.int32),
    ]

    @tf.function(input_signature=signature, **options)
    def craft(images, labels, seed):
        return attack(network, images, labels, seed)

    return craft


def test_the_loop_is_not_unrolled():
    network = Network()

    def operations(steps: int) -> int:
        attack = PGD(eps=0.1, steps=steps)
        graph = tf.function(network.attacked).get_concrete_function(attack).graph.as_graph_def()
        return len(graph.node) + sum(len(function.node_def) for function in graph.library.function)

    assert operations(40) == operations(2)


def test_no_gradient_flows_through_the_attack():
    network = Network()
    weights = tf.Variable(network.first)
    network.first = weights
    with tf.GradientTape() as tape:
        tape.watch(network.images)
        adversarial = network.attacked(PGD(eps=0.1, steps=2))
    assert tape.gradient(adversarial, [weights, network.images]) == [None, None]


def test_logits_that_cannot_be_differentiated_are_named():
    network = Network()
    with pytest.raises(HarpError, match="no gradient with respect to the images"):
        PGD(eps=0.1)(lambda x: network(tf.stop_gradient(x)), network.images, network.labels, SEED)


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"steps": 2.5}, {"step_size": -0.1}, {"step_size": float("nan")}], ids=str
)
def test_steps_out_of_range_are_refused(settings):
    with pytest.raises(HarpError, match="whole number of steps >= 1 and a step_size >= 0"):
        PGD(eps=0.1, **settings)


@pytest.mark.parametrize("settings", [{"objective": "dlr"}, {"start": "gaussian"}], ids=str)
def test_unknown_choices_are_refused(settings):
    with pytest.raises(HarpError, match=f"{next(iter(settings))} must be one of"):
        PGD(eps=0.1, **settings)
