"""Flying Bird: what is dropped, what grows, and how many."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf import layers
from harp_tf.attacks import PGD
from harp_tf.baselines import flying_bird
from tests.baselines.nets import SIZES, fitted, images, masks, wrapped


def test_drop_and_grow_by_hand():
    weights = tf.constant([0.5, -0.1, 0.9, 0.2, 7.0, 8.0])
    mask = tf.constant([1.0, 1, 1, 1, 0, 0])
    gradients = tf.constant([9.0, 0.3, 9, 0.1, -0.2, 0.0])
    new, left = flying_bird.drop_and_grow(weights, mask, gradients, 2, 2)
    # -0.1 and 0.2 are dropped; 0.3 is the largest gradient among the removed, so the first of them grows again.
    np.testing.assert_array_equal(new, [1, 1, 1, 0, 1, 0])
    # One that was removed before starts from 0, whatever its variable held.
    np.testing.assert_array_equal(left, np.float32([0.5, -0.1, 0.9, 0, 0, 0]))
    new, left = flying_bird.drop_and_grow(weights, mask, gradients, 3, 0)
    np.testing.assert_array_equal(new, [0, 0, 1, 0, 0, 0])
    new, left = flying_bird.drop_and_grow(weights, mask, gradients, 0, 1)
    np.testing.assert_array_equal(new, [1, 1, 1, 1, 1, 0])


def test_zeros_are_chosen_only_among_those_that_are_asked_for():
    values, among = tf.constant([5.0, 0.0, 3.0, 0.0, -0.0]), tf.constant([0.0, 0, 1, 1, 1])
    np.testing.assert_array_equal(flying_bird.largest_among(values, among, 2), [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(flying_bird.largest_among(values, among, 3), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(flying_bird.largest_among(values, among, 0), [0, 0, 0, 0, 0])


def test_the_share_falls_along_a_cosine():
    shares = [float(flying_bird.share_at(tf.constant(step), tf.constant(100))) for step in (0, 50, 100, 101)]
    assert shares == pytest.approx([0.5, (0.5 + 0.005) / 2, 0.005, 0.005], abs=1e-6)


def test_gradients_of_removed_weights_are_those_of_the_masked_network():
    network = wrapped()
    trainer = flying_bird.FlyingBirdTraining(network, "natural", None)
    trainer.compile("sgd", run_eagerly=True)
    pictures, labels = images(8)
    kernel = layers.pruned_kernels(network)[1]
    masked = tf.Variable(kernel.variable * kernel.scores.mask())
    with (
        tf.GradientTape() as tape,
        layers.shared_kernels({**layers.masked_kernels(network), id(kernel.variable): masked}),
    ):
        logits = network(pictures, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    expected = tape.gradient(loss, masked)
    trainer.train_on_batch(pictures, labels)
    removed = ~masks(network)["hidden/kernel"]
    assert np.abs(np.asarray(trainer.seen[1])[removed]).max() > 0
    np.testing.assert_allclose(trainer.seen[1], expected, atol=1e-6)


def test_a_batch_in_parts_is_seen_whole():
    half = images(4)
    batch = [np.concatenate([one, one]) for one in half]  # batch normalisation sees each part by itself
    seen = []
    for parts in (1, 2):
        network = wrapped()
        trainer = flying_bird.FlyingBirdTraining(network, "natural", None, accumulate=parts)
        trainer.compile("sgd")
        for _ in range(2):  # and one batch only
            trainer.train_on_batch(*batch)
        seen.append([np.asarray(gradient) for gradient in trainer.seen])
    for whole, summed in zip(*seen, strict=True):
        np.testing.assert_allclose(summed, parts * whole, atol=1e-5)


def test_masks_move_and_keep_their_sizes():
    network = wrapped(strategy="erk")
    before = masks(network)
    trainer = fitted(flying_bird.FlyingBirdTraining, network, epochs=3)
    after = masks(network)
    assert {p: m.sum() for p, m in after.items()} == {p: m.sum() for p, m in before.items()}
    assert sum((after[path] != before[path]).sum() for path in SIZES) > 10
    assert layers.budget_of(network).met and int(trainer.steps) == int(trainer.total) == 12
    for kernel in layers.pruned_kernels(network):
        assert set(np.unique(kernel.scores.scores)) == {0.0, 1.0}


def test_plus_drops_more_when_the_gap_widens_and_grows_within_the_budget():
    network = wrapped()
    trainer = flying_bird.FlyingBirdPlusTraining(network, "pgd", PGD(eps=0.05, steps=1))
    for kernel in layers.pruned_kernels(network):
        kernel.scores.scores.assign(kernel.scores.mask())
    trainer.total.assign(100)
    trainer.steps.assign(40)
    for gap in (0.1, 0.2):  # the first half of the stage only looks
        trainer._adapt(gap, 1.0)
    assert layers.budget_of(network).kept == sum(SIZES.values()) // 4
    trainer.steps.assign(60)
    trainer._adapt(0.3, 0.9)
    share = float(flying_bird.share_at(tf.constant(60), tf.constant(100)))
    less = {path: size // 4 - int(np.ceil(0.4 * share * (size // 4))) for path, size in SIZES.items()}
    assert {path: mask.sum() for path, mask in masks(network).items()} == less
    trainer.known.assign(1)  # what was before is forgotten
    for loss in (1.0, 1.1, 1.2, 1.3):  # the gap closes, the loss rises
        trainer._adapt(0.0, loss)
    grown = {path: mask.sum() for path, mask in masks(network).items()}
    assert all(grown[path] >= less[path] for path in SIZES) and sum(grown.values()) > sum(less.values())
    for _ in range(20):
        trainer._adapt(0.0, float(trainer.course.numpy()[1, -1]) + 1.0)
    assert layers.budget_of(network).kept == layers.budget_of(network).permitted
    assert all(mask.sum() >= 1 for mask in masks(network).values())


def test_rising():
    rising = flying_bird.rising
    assert not rising(np.array([1.0])) and rising(np.array([1.0, 2.0])) and not rising(np.array([2.0, 1.0]))
    assert rising(np.array([1.0, 2.0, 1.0])) and not rising(np.array([1.0, 2.0, 1.0, 0.0]))


def test_plus_in_fit_knows_its_epochs():
    trainer = fitted(flying_bird.FlyingBirdPlusTraining, wrapped(), epochs=2)
    assert int(trainer.known) == 2 and np.isfinite(trainer.course).all()
    assert (np.asarray(trainer.course)[1, -2:] > 0).all() and not np.asarray(trainer.course)[:, :-2].any()
