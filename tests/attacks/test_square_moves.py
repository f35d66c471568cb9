"""The moves of the Square attack: where they change an image, by how much, and what they depend on."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import square_windows
from harp_tf.attacks.square_moves import L2Moves, LinfMoves

EPS = 0.1
SEEDS = tf.constant([[3, 0], [3, 1], [3, 2], [3, 3]])
SHAPES = [(8, 8, 1), (5, 9, 3), (30, 1)]


def images_of(shape, seed=0) -> tf.Tensor:
    return tf.constant(np.clip(np.random.default_rng(seed).uniform(-0.2, 1.2, (len(SEEDS), *shape)), 0, 1), tf.float32)


def windows(moves, queries) -> np.ndarray:
    return np.stack([moves._mask(tf.constant(query), moves._corners) for query in range(queries)])[..., 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_have_the_scheduled_size_and_reach_every_place(shape):
    moves = LinfMoves(shape, EPS, 400, 0.8, SEEDS)
    masks = windows(moves, 400)
    sides = square_windows.sides(shape[:-1], square_windows.shares(400, 0.8), "linf")
    np.testing.assert_array_equal(masks.reshape(400, -1).sum(1), sides ** (len(shape) - 1))
    small = masks[sides == sides.min()]
    assert small.any(0).all()
    # Each corner of the grid is a place where a window begins or ends.
    assert small[(slice(None), *[0] * (len(shape) - 1))].any() and small[(slice(None), *[-1] * (len(shape) - 1))].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_linf_moves_set_the_window_to_the_corners_of_the_ball_and_nothing_else(shape):
    images = images_of(shape)
    moves = LinfMoves(shape, EPS, 60, 0.8, SEEDS)
    points = moves.start(images)
    masks = windows(moves, 60)[..., None]
    signs = moves._signs.numpy()
    assert set(np.unique(signs)) == {-1.0, 1.0}
    for query in range(0, 60, 7):
        moved = moves.move(tf.constant(query), points, images).numpy()
        target = np.clip(images + np.float32(EPS) * signs[query], 0, 1)
        np.testing.assert_array_equal(moved, np.where(masks[query], target, points))
        changed = (moved != points.numpy()).any(axis=tuple(range(1, moved.ndim)))
        np.testing.assert_array_equal(moves.changes(tf.constant(query), points, images), changed)
        again = moves.changes(tf.constant(query), tf.constant(moved), images)
        assert not again.numpy().any()


@pytest.mark.parametrize("shape", SHAPES)
def test_l2_moves_spend_the_whole_budget_inside_the_ball(shape):
    images = tf.fill([4, *shape], 0.5)
    moves = L2Moves(shape, EPS, 60, 0.8, SEEDS)
    points = moves.start(images)
    for query in range(0, 60, 7):
        points = moves.move(tf.constant(query), points, images)
        change = (points - images).numpy().reshape(4, -1)
        np.testing.assert_allclose(np.linalg.norm(change, axis=1), EPS, rtol=1e-5)  # no pixel is at 0 or 1
        assert moves.changes(tf.constant(query), points, images).numpy().all()
    far = L2Moves(shape, 5.0, 60, 0.8, SEEDS)
    points = far.move(tf.constant(3), far.start(images_of(shape)), images_of(shape)).numpy()
    assert points.min() == 0.0 and points.max() == 1.0


def test_an_l2_move_takes_the_budget_of_the_second_window():
    shape = (9, 9, 1)
    images = tf.fill([4, *shape], 0.5)
    moves = L2Moves(shape, EPS, 300, 0.8, SEEDS)
    points = moves.start(images)
    first, second = windows(moves, 300), np.stack([moves._mask(q, moves._other_corners) for q in range(300)])[..., 0]
    apart = [q for q in range(51, 300) if not (first[q] & second[q]).any()]
    for query in apart[:3]:
        before, after = (p.numpy()[..., 0] - 0.5 for p in (points, moves.move(tf.constant(query), points, images)))
        assert (after[:, second[query]] == 0).all()
        outside = ~(first[query] | second[query])
        np.testing.assert_allclose(after[:, outside], before[:, outside], atol=1e-6)
        budget = (before[:, first[query]] ** 2).sum(1) + (before[:, second[query]] ** 2).sum(1)
        np.testing.assert_allclose((after[:, first[query]] ** 2).sum(1), budget, rtol=1e-3)


def test_the_linf_start_is_stripes_of_each_examples_own():
    images = tf.fill([4, 6, 8, 3], 0.5)
    change = LinfMoves((6, 8, 3), EPS, 1, 0.8, SEEDS).start(images).numpy() - 0.5
    np.testing.assert_allclose(np.abs(change), EPS, rtol=1e-5)
    np.testing.assert_array_equal(change, np.broadcast_to(change[:, :1], change.shape))
    assert len({example.tobytes() for example in change}) == 4
    vector = LinfMoves((40, 1), EPS, 1, 0.8, SEEDS).start(tf.fill([4, 40, 1], 0.5)).numpy()
    assert all(0.2 < (example > 0.5).mean() < 0.8 for example in vector)


@pytest.mark.parametrize("kind", [LinfMoves, L2Moves])
def test_moves_depend_on_the_first_number_of_the_seed_alone(kind):
    shape = (8, 8, 1)
    images = images_of(shape)

    def moved(seed):
        moves = kind(shape, EPS, 20, 0.8, tf.constant(seed))
        return np.stack([moves.move(tf.constant(q), images, images) for q in range(20)])

    batch = moved([3, 5])
    np.testing.assert_array_equal(moved([[3, 0], [3, 9], [3, 2], [3, 1]]), batch)
    assert (moved([4, 5]) != batch).any()
