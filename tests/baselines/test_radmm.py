"""Robust-ADMM: its projection, its updates of Z and U, and the cut at the end."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf import layers
from harp_tf.attacks import PGD
from harp_tf.baselines import radmm
from tests.baselines.nets import SIZES, fitted, masks, wrapped


def test_projection_by_hand():
    values = tf.constant([[0.3, -2.0], [0.0, 1.5], [-0.4, 0.1]])
    np.testing.assert_array_equal(radmm.project(values, 3), np.float32([[0, -2.0], [0, 1.5], [-0.4, 0]]))
    np.testing.assert_array_equal(radmm.project(tf.constant([1.0, -1.0, 1.0]), 2), [1.0, -1.0, 0.0])


def trainer_of(network):
    return radmm.AdmmTraining(network, "pgd", PGD(eps=0.05, steps=1))


def test_updates_of_z_and_u_by_hand():
    network = wrapped()
    trainer = trainer_of(network)
    kernel = layers.pruned_kernels(network)[2]  # 36 weights, of which 9 remain
    initial = kernel.variable.numpy()
    np.testing.assert_array_equal(trainer.auxiliary[2], np.where(masks(network)["logits/kernel"], initial, 0))
    assert not np.any(trainer.dual[2]) and trainer.counts[2] == 9
    moved = np.linspace(-1, 1, 36, dtype=np.float32).reshape(initial.shape)
    kernel.variable.assign(moved)
    trainer.rho.assign(0.5)
    trainer._advance()
    assert float(trainer.rho) == pytest.approx(0.65)
    cut = np.where(np.abs(moved) >= np.sort(np.abs(moved).ravel())[-9], moved, 0)
    assert (cut != 0).sum() in (9, 10)  # the grid is symmetric up to rounding
    z = np.asarray(trainer.auxiliary[2])
    assert (z != 0).sum() == 9 and np.abs(z[z != 0]).min() >= np.abs(moved[z == 0]).max() - 1e-6
    np.testing.assert_array_equal(trainer.dual[2], moved - z)
    # The next projection is of W + U, and U goes on growing by W - Z.
    trainer._advance()
    np.testing.assert_array_equal(trainer.auxiliary[2], radmm.project(moved + (moved - z), 9))
    np.testing.assert_allclose(trainer.dual[2], 2 * moved - z - np.asarray(trainer.auxiliary[2]), atol=1e-6)


def test_the_proximal_term():
    network = wrapped()
    trainer = trainer_of(network)
    trainer.rho.assign(0.5)
    for u in trainer.dual:
        u.assign(tf.fill(u.shape, 0.1))
    expected = 0.0
    for kernel, z in zip(layers.pruned_kernels(network), trainer.auxiliary, strict=True):
        expected += ((kernel.variable.numpy() - np.asarray(z) + 0.1) ** 2).sum()
    assert float(trainer.proximal()) == pytest.approx(0.5 / 2 * expected, rel=1e-5)
    images, labels = np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32)
    trainer.compile("sgd", run_eagerly=True)
    with_it = trainer.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    trainer.rho.assign(0.0)
    without = trainer.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    assert with_it - without == pytest.approx(0.25 * expected, rel=1e-4)


class Unpulled(radmm.AdmmTraining):
    """The same training without the proximal term."""

    def proximal(self):
        return tf.constant(0.0)


@pytest.mark.slow
def test_weights_are_drawn_to_where_they_are_cut():
    network, control = wrapped(), wrapped()
    trainer = fitted(radmm.AdmmTraining, network, epochs=5, rounds=10)
    fitted(Unpulled, control, epochs=5, rounds=10)
    assert float(trainer.rho) == pytest.approx(radmm.PULL / 200 * radmm.GROWTH**9) and int(trainer.interval) == 20
    assert share_outside(network) < 0.01 * share_outside(control)
    # It ends cut: the largest weights, as many as may remain.
    for kernel in layers.pruned_kernels(network):
        mask, magnitudes = masks(network)[kernel.path], np.abs(kernel.variable.numpy())
        assert mask.sum() == SIZES[kernel.path] // 4 and magnitudes[mask].min() >= magnitudes[~mask].max()


def share_outside(network):
    """The share of the squared weights outside of the largest quarter."""
    found = []
    for kernel in layers.pruned_kernels(network):
        squares = np.sort(kernel.variable.numpy().ravel() ** 2)
        found.append(squares[: -(squares.size // 4)].sum() / squares.sum())
    return np.mean(found)


def test_training_runs_without_masks_and_validation_with_them():
    network = wrapped()
    trainer = trainer_of(network)
    trainer.relax()
    assert all(mask.all() for mask in masks(network).values())
    trainer.compile("sgd", run_eagerly=True)
    seen = []
    step = trainer.test_step
    trainer.test_step = lambda data: seen.append(layers.budget_of(network).kept) or step(data)
    trainer.evaluate(np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32), verbose=0)
    assert seen == [sum(SIZES.values()) // 4]
    assert all(mask.all() for mask in masks(network).values())
