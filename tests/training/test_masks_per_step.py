"""A step selects each mask once and makes no needless pass."""

import contextlib

import keras
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD
from harp_tf.compression import top_k_mask
from harp_tf.losses import FreeAdversarialTraining
from harp_tf.training import adversarial_model


def count(function, *signature) -> int:
    """Number of histograms in the graph of a function, called functions and bodies of loops included."""
    definition = tf.function(function).get_concrete_function(*signature).graph.as_graph_def()
    called = {part.signature.name: part.node_def for part in definition.library.function}

    def inside(nodes) -> int:
        names = [value.func.name for node in nodes for value in node.attr.values() if value.HasField("func")]
        return sum(node.op == "DenseBincount" for node in nodes) + sum(inside(called[name]) for name in names)

    return inside(definition.node)


def selections(step) -> float:
    one = count(top_k_mask, tf.TensorSpec([10]), tf.TensorSpec([], tf.int32))
    images, labels = tf.TensorSpec([None, 4, 4, 1]), tf.TensorSpec([None], tf.int32)
    return count(lambda x, y: step((x, y)), images, labels) / one


@pytest.mark.parametrize("loss", ["natural", "pgd", "trades", "mart"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_step_selects_each_mask_once(pruned, trainer_of, loss, steps):
    trainer = trainer_of(pruned(), loss, PGD(eps=0.1, steps=steps))
    trainer.optimizer.build(trainer.trainable_variables)
    assert selections(trainer.train_step) == 2
    if loss == "pgd":
        assert selections(trainer.test_step) == 2


def test_free_selects_each_mask_once_per_replay(pruned, trainer_of):
    trainer = trainer_of(pruned(), FreeAdversarialTraining(batch_size=48, replays=3))
    trainer.optimizer.build(trainer.trainable_variables)
    assert selections(trainer.train_step) == 3 * 2


def test_the_count_notices_when_masks_are_not_shared(pruned, trainer_of, monkeypatch):
    monkeypatch.setattr(adversarial_model, "shared_kernels", lambda kernels: contextlib.nullcontext())
    trainer = trainer_of(pruned(), "trades")
    trainer.optimizer.build(trainer.trainable_variables)
    assert selections(trainer.train_step) > 2 * 3


def test_sharing_masks_changes_no_result(pruned, trainer_of, fit, monkeypatch, assert_equal_weights):
    network, alone = pruned(), pruned()
    fit(trainer_of(network))
    monkeypatch.setattr(adversarial_model, "shared_kernels", lambda kernels: contextlib.nullcontext())
    fit(trainer_of(alone))
    assert_equal_weights(network, alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "loss, training, inference",
    [
        ("natural", 1, 0),
        ("pgd", 1, 3 + 1),  # the steps of the attack, and the clean figures
        ("trades", 2, 1 + 3),  # the attack's clean prediction, and its steps
        ("mart", 2, 3),
        (FreeAdversarialTraining(batch_size=48, replays=4), 4, 1),  # the clean figures once
    ],
    ids=["natural", "pgd", "trades", "mart", "free"],
)
def test_a_step_makes_no_needless_pass(classifier, trainer_of, data, loss, training, inference):
    modes = []

    class Spy(keras.layers.Layer):
        def call(self, inputs, training=None):
            modes.append(training)
            return inputs

    trainer = trainer_of(keras.Sequential([keras.Input((4, 4, 1)), Spy(), classifier()]), loss, PGD(eps=0.1, steps=3))
    modes.clear()
    trainer.train_on_batch(*data)
    assert (modes.count(True), modes.count(False)) == (training, inference) and len(modes) == training + inference
