"""Batches computed in parts: the update is that of the whole batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf import compression
from harp_tf.attacks import PGD
from harp_tf.layers import pruned_kernels
from harp_tf.losses import FreeAdversarialTraining
from harp_tf.training import accumulation
from harp_tf.types import HarpError

# Random starts are other numbers in parts, and the sign of a gradient turns round on rounding errors.
CLEAN_START = PGD(eps=0.1, steps=2, start="clean", norm="l2")


def plain_net() -> keras.Model:
    """16 pixels -> 12 hidden units -> 3 classes, without batch normalisation."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


@pytest.mark.parametrize(
    "loss",
    ["natural", "pgd", pytest.param("mart", marks=pytest.mark.slow), FreeAdversarialTraining(batch_size=24, replays=2)],
)
def test_parts_train_as_the_whole_batch(loss, trainer_of, fit, data, assert_equal_weights):
    networks, trainers = [], []
    for parts in (1, 3):
        networks.append(harp_tf.prune(plain_net(), 0.5, verbose=False))
        schedule = compression.LearningRate(0.02, total_steps=6)
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
        attack = None if loss == "natural" else CLEAN_START
        trainers.append(
            trainer_of(networks[-1], loss, attack, optimizer=optimizer, weight_decay=5e-3, accumulate=parts)
        )
        history = fit(trainers[-1], epochs=2, batch_size=24, gamma=5.0)
        assert np.isfinite(history["loss"]).all()
    assert_equal_weights(*networks, rtol=1e-4, atol=1e-6)
    assert int(trainers[0].steps) == int(trainers[1].steps) == 4
    assert int(trainers[0].optimizer.iterations) == int(trainers[1].optimizer.iterations)


def test_figures_and_sample_weights_are_those_of_the_whole_batch(trainer_of, data):
    weights = np.linspace(0.0, 2.0, 48, dtype=np.float32)
    results = []
    for parts in (1, 4):
        trainer = trainer_of(plain_net(), "pgd", CLEAN_START, metrics=["accuracy"], accumulate=parts)
        results.append(trainer.train_on_batch(*data, sample_weight=weights, return_dict=True))
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert "accuracy" in results[0] and "adversarial_accuracy" in results[0]


def test_the_bound_of_a_rate_gradient_is_that_of_the_update(trainer_of, data, monkeypatch):
    """Parts whose gradients exceed the bound on either side of 0 must cancel as they do in the whole batch."""
    monkeypatch.setattr(compression, "MAX_LOGIT_GRADIENT", 1e-4)
    moved = []
    for parts in (1, 4):
        network = harp_tf.prune(plain_net(), 0.5, verbose=False)
        logits = [kernel.scores.logit for kernel in pruned_kernels(network)]
        before = np.array([float(logit) for logit in logits])
        trainer = trainer_of(network, "natural", None, optimizer=keras.optimizers.SGD(100.0), accumulate=parts)
        trainer.train_on_batch(*data)
        moved.append(np.array([float(logit) for logit in logits]) - before)
    assert np.abs(moved[0]).max() == pytest.approx(0.01, rel=1e-3)  # 100 * 1e-4: the bound works
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-3, atol=1e-5)


def test_every_part_draws_its_own_start(trainer_of, data):
    seen = []

    class Spy(PGD):
        def perturb(self, logits, images, labels, seed, number):
            seen.append((len(images), seed.numpy().tolist()))
            return super().perturb(logits, images, labels, seed, number)

    trainer = trainer_of(plain_net(), "pgd", Spy(eps=0.1, steps=1), seed=9, accumulate=2)
    for _ in range(2):
        trainer.train_on_batch(*data)
    assert seen == [(24, [9, 0]), (24, [9, 1]), (24, [9, 2]), (24, [9, 3])]


def test_a_compiled_step_of_open_size_checks_the_batch(trainer_of, data):
    trainer = trainer_of(plain_net(), "natural", None, accumulate=5, compile={"run_eagerly": False})
    spec = (tf.TensorSpec([None, 4, 4, 1], tf.float32), tf.TensorSpec([None], tf.int32))
    step = tf.function(
        lambda images, labels: trainer.train_step((images, labels))["loss"], input_signature=spec, autograph=False
    )
    images, labels = data
    assert np.isfinite(step(images[:45], labels[:45]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="accumulate=5 needs batches that divide into 5 parts"):
        step(images, labels)


def test_a_batch_that_does_not_divide_is_refused(trainer_of, data):
    with pytest.raises(HarpError, match="accumulate=5 needs .* received one of 48. Change the batch size"):
        trainer_of(plain_net(), "natural", None, accumulate=5).train_on_batch(*data)


@pytest.mark.parametrize("accumulate", [0, -1, True, 2.0, "2"])
def test_a_number_of_parts_out_of_range_is_refused(trainer_of, accumulate):
    with pytest.raises(HarpError, match="accumulate must be a whole number >= 1, received"):
        trainer_of(plain_net(), "natural", None, accumulate=accumulate)


def test_it_is_saved_with_the_training(trainer_of, data, tmp_path):
    trainer = trainer_of(plain_net(), "natural", None, accumulate=3)
    trainer.train_on_batch(*data)
    trainer.save(tmp_path / "x.keras")
    assert keras.saving.load_model(tmp_path / "x.keras").accumulate == 3


@pytest.mark.parametrize("way", ["eager", "graph", "xla"])
def test_sums_and_rows_come_back_as_of_the_whole_batch(way):
    variable = keras.Variable([1.0, 2.0])
    images = tf.reshape(tf.range(12.0), [6, 2])

    def compute(part, images, labels, weights):
        assert weights is None
        sums = [tf.reduce_sum(images, axis=0) + tf.cast(part, tf.float32) * 100.0, None]
        return sums, [None, tf.cast(labels, tf.float32), images * variable.value]

    def whole():
        return accumulation.in_parts(compute, [images, tf.range(6), None], 3, like=[variable, variable], rows=3)

    sums, rows = whole() if way == "eager" else tf.function(whole, jit_compile=way == "xla", autograph=False)()
    np.testing.assert_array_equal(sums[0], [330.0, 336.0])
    assert sums[1] is None and rows[0] is None
    np.testing.assert_array_equal(rows[1], range(6))
    np.testing.assert_array_equal(rows[2], images * [1.0, 2.0])


def test_sparse_gradients_are_added():
    table = keras.Variable(np.zeros((3, 1), np.float32))

    def compute(part, labels):
        return [tf.IndexedSlices(tf.ones([2, 1]), labels, tf.constant([3, 1]))], [tf.cast(labels, tf.float32)]

    sums, _ = accumulation.in_parts(compute, [tf.constant([0, 1, 1, 2])], 2, like=[table], rows=1)
    np.testing.assert_array_equal(sums[0], [[1.0], [2.0], [1.0]])


def test_the_graph_does_not_grow_with_the_parts(trainer_of, data):
    """Written out, the graph of a deep network in four parts took three times the memory of the whole batch."""
    sizes = []
    for parts in (2, 8):
        trainer = trainer_of(harp_tf.prune(plain_net(), 0.5, verbose=False), "pgd", CLEAN_START, accumulate=parts)
        step = tf.function(lambda x, y, trainer=trainer: trainer.train_step((x, y)), autograph=False)
        graph = step.get_concrete_function(*(tf.constant(values) for values in data)).graph.as_graph_def()
        sizes.append(len(graph.node) + sum(len(function.node_def) for function in graph.library.function))
    assert sizes[1] < 1.1 * sizes[0]


@pytest.mark.slow
def test_a_step_in_parts_compiles_under_xla(trainer_of, data):
    results = []
    for compiled in (False, True):
        trainer = trainer_of(harp_tf.prune(plain_net(), 0.5, verbose=False), "pgd", CLEAN_START, accumulate=4)
        step = tf.function(
            lambda x, y, trainer=trainer: trainer.train_step((x, y)), autograph=False, jit_compile=compiled
        )
        results.append({name: float(value) for name, value in step(*map(tf.constant, data)).items()})
    assert results[1] == pytest.approx(results[0], rel=1e-4)
