"""The balls of both norms: nearest points, random points, steepest steps."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks.geometry import L2, Linf, norm_of
from harp_tf.types import HarpError

SEED = tf.constant([3, 4])


def lengths(batch) -> np.ndarray:
    return np.linalg.norm(np.asarray(batch, np.float64).reshape(len(batch), -1), axis=1)


def test_linf_projection_clips_every_pixel():
    delta = tf.constant([[[0.3, -0.05], [-0.2, 0.1]]])
    np.testing.assert_array_equal(Linf().project(delta, 0.1), np.float32([[[0.1, -0.05], [-0.1, 0.1]]]))


def test_l2_projection_shortens_whole_images_and_only_the_long_ones():
    delta = tf.constant([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(L2().project(delta, 1.0), [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("norm", [Linf(), L2()])
@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 3, 1), (5, 3, 3, 3)])
def test_radius_zero_leaves_only_the_centre(norm, shape):
    delta = tf.random.stateless_normal(shape, SEED)
    np.testing.assert_array_equal(norm.project(delta, 0.0), np.zeros(shape))
    np.testing.assert_array_equal(norm.random(delta, 0.0, SEED), np.zeros(shape))


def test_linf_random_points_are_uniform_in_the_ball():
    points = Linf().random(tf.zeros([500, 4, 4, 3]), 0.2, SEED).numpy()
    assert points.shape == (500, 4, 4, 3)
    assert np.abs(points).max() <= 0.2
    # Uniform: every twentieth of the interval holds a twentieth of the 24,000 pixels (standard error 0.0014).
    shares = np.histogram(points, bins=20, range=(-0.2, 0.2))[0] / points.size
    np.testing.assert_allclose(shares, 0.05, atol=0.008)


def test_l2_random_points_are_uniform_in_the_ball():
    dimensions = 6
    points = L2().random(tf.zeros([20000, 1, 2, 3]), 0.5, SEED).numpy().reshape(-1, dimensions)
    radii = lengths(points) / 0.5
    assert radii.max() <= 1 + 1e-6
    # Uniform in volume: radius^d is uniform in [0, 1]. Uniform in direction: no mean, equal uncorrelated axes.
    shares = np.histogram(radii**dimensions, bins=10, range=(0, 1 + 1e-5))[0] / len(radii)
    np.testing.assert_allclose(shares, 0.1, atol=0.01)
    directions = points / lengths(points)[:, None]
    np.testing.assert_allclose(directions.mean(0), 0.0, atol=0.015)
    np.testing.assert_allclose(np.cov(directions.T), np.eye(dimensions) / dimensions, atol=0.01)


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_random_points_depend_on_the_seed_alone(norm):
    like = tf.zeros([4, 3, 3, 1])
    first = norm.random(like, 0.1, SEED)
    np.testing.assert_array_equal(first, norm.random(like, 0.1, SEED))
    for other in ([3, 5], [4, 4]):
        assert np.abs(first - norm.random(like, 0.1, tf.constant(other))).min(axis=(1, 2, 3)).max() > 0
    assert len({point.tobytes() for point in first.numpy()}) == 4


@pytest.mark.parametrize("norm", [Linf(), L2()])
@pytest.mark.parametrize("seed", [SEED, tf.constant([[3, 4], [3, 5], [0, 0], [9, 1]])])
def test_random_points_of_the_sphere(norm, seed):
    like = tf.zeros([4, 5, 5, 2])
    points = norm.on_sphere(like, 0.3, seed)
    np.testing.assert_allclose(norm.size(points), 0.3, rtol=1e-6)
    np.testing.assert_array_equal(points, norm.on_sphere(like, 0.3, seed))
    assert len({point.tobytes() for point in points.numpy()}) == 4
    np.testing.assert_allclose(np.mean(points), 0.0, atol=0.03)
    np.testing.assert_array_equal(norm.on_sphere(like, 0.0, seed), like)


def test_the_size_of_a_change():
    delta = tf.constant([[[0.3, -0.4]], [[0.0, 0.0]], [[-1.0, 0.0]]])
    np.testing.assert_allclose(Linf().size(delta), [0.4, 0.0, 1.0])
    np.testing.assert_allclose(L2().size(delta), [0.5, 0.0, 1.0])


def test_linf_step_is_the_sign():
    gradient = tf.constant([[1e-30, -2.0, 0.0]])
    np.testing.assert_array_equal(Linf().step(gradient), [[1.0, -1.0, 0.0]])


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e25])
def test_l2_step_has_length_one_however_small_the_gradient(scale):
    direction = np.float32([[3.0, 4.0], [0.0, -2.0]])
    np.testing.assert_allclose(L2().step(scale * direction), [[0.6, 0.8], [0.0, -1.0]], rtol=1e-5)


def test_l2_step_along_no_gradient_is_no_step():
    np.testing.assert_array_equal(L2().step(tf.zeros([2, 3, 3, 1])), np.zeros([2, 3, 3, 1]))


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_step_is_the_steepest_of_the_unit_ball(norm):
    gradient = tf.random.stateless_normal([1, 3, 3, 2], SEED)
    best = float(tf.reduce_sum(gradient * norm.step(gradient)))
    others = norm.random(tf.zeros([2000, 3, 3, 2]), 1.0, SEED)
    rises = tf.reduce_sum(gradient * others, axis=[1, 2, 3])
    assert best > float(tf.reduce_max(rises))


def test_unknown_norm_is_refused():
    with pytest.raises(HarpError, match="norm must be one of linf, l2, received 'l1'"):
        norm_of("l1")
