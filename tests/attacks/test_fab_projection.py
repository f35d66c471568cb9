"""Shortest moves onto a hyperplane inside the box, against linear programming and bisection in float64."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linprog

from harp_tf.attacks.fab_projection import onto_hyperplane

NORMS = ["linf", "l2"]


def problem(count=30, size=12, seed=0):
    """Points, normals and gaps that can be covered inside the box, some only just."""
    generator = np.random.default_rng(seed)
    points = np.clip(generator.uniform(-0.2, 1.2, size=(count, size)), 0, 1)
    normals = generator.normal(size=(count, size)) * generator.integers(0, 2, size=(count, size))
    normals[:, 0] = 1.0
    targets = generator.uniform(size=(count, size)) ** generator.uniform(0.05, 5, size=(count, 1))
    gaps = ((targets - points) * normals).sum(1)
    return [array.astype("float32") for array in (points, normals, gaps)]


def size_of(moves, norm) -> np.ndarray:
    moves = np.asarray(moves, np.float64)
    return np.abs(moves).max(1) if norm == "linf" else np.linalg.norm(moves, axis=1)


def by_linear_programming(point, normal, gap) -> float:
    """The smallest t with -t <= move <= t that covers the gap inside the box."""
    size = len(point)
    identity, one = np.eye(size), np.ones((size, 1))
    found = linprog(
        c=[0.0] * size + [1.0],
        A_ub=np.block([[identity, -one], [-identity, -one]]),
        b_ub=np.zeros(2 * size),
        A_eq=[[*normal, 0.0]],
        b_eq=[gap],
        bounds=[*zip(-point, 1 - point), (0, None)],
    )
    assert found.success
    return found.fun


def by_bisection(points, normals, gaps, norm) -> np.ndarray:
    """The moves of the Lagrangian's form whose multiplier 200 halvings find, float64."""
    points, normals, gaps = (np.asarray(array, np.float64) for array in (points, normals, gaps))
    directions = normals * np.sign(gaps)[:, None]
    rooms = np.where(directions > 0, 1 - points, points)
    unit = np.abs(normals) if norm == "l2" else (normals != 0).astype(float)
    low, high = np.zeros(len(points)), np.full(len(points), 1e12)

    def moves(multipliers):
        return np.sign(directions) * np.minimum(multipliers[:, None] * unit, rooms)

    for _ in range(200):
        middle = (low + high) / 2
        enough = (moves(middle) * normals).sum(1) * np.sign(gaps) >= np.abs(gaps)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return moves(high)


def test_linf_moves_are_as_short_as_linear_programming_finds():
    points, normals, gaps = problem()
    moves = onto_hyperplane(points, normals, gaps, "linf").numpy()
    expected = [by_linear_programming(*row) for row in zip(*(array.astype(float) for array in (points, normals, gaps)))]
    np.testing.assert_allclose(size_of(moves, "linf"), expected, atol=1e-5)
    assert 0.05 < np.median(expected) < 1.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("count, size, seed", [(40, 12, 1), (5, 784, 2), (40, 1, 3)])
def test_moves_are_the_optimum(norm, count, size, seed):
    points, normals, gaps = problem(count, size, seed)
    moves = onto_hyperplane(points, normals, gaps, norm).numpy()
    np.testing.assert_allclose(moves, by_bisection(points, normals, gaps, norm), atol=2e-5)
    np.testing.assert_allclose((moves * normals).sum(1), gaps, rtol=1e-4, atol=1e-4)
    assert (points + moves).min() >= -1e-6 and (points + moves).max() <= 1 + 1e-6


def test_l2_moves_are_shorter_than_others_that_reach_the_hyperplane():
    points, normals, gaps = problem(3, 4, seed=4)
    best = size_of(onto_hyperplane(points, normals, gaps, "l2"), "l2")
    # Random points of the box, moved along the first coordinate onto the hyperplane.
    others = np.random.default_rng(0).uniform(size=(200_000, 4))
    for point, normal, gap, size in zip(points, normals, gaps, best):
        moves = others - point
        moves[:, 0] += (gap - moves @ normal) / normal[0]
        inside = np.abs(point[0] + moves[:, 0] - 0.5) <= 0.5
        reached = np.linalg.norm(moves[inside], axis=1)
        assert len(reached) > 1000
        assert size <= reached.min() + 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_a_hyperplane_outside_the_box_gives_the_nearest_corner(norm):
    points = np.float32([[0.2, 0.9, 0.5], [0.2, 0.9, 0.5]])
    normals = np.float32([[1.0, -2.0, 0.0], [1.0, -2.0, 0.0]])
    moves = onto_hyperplane(points, normals, np.float32([100.0, -100.0]), norm)
    np.testing.assert_allclose(moves, [[0.8, -0.9, 0.0], [-0.2, 0.1, 0.0]], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_normal_or_no_gap_is_no_move(norm):
    points, normals, gaps = problem(6)
    for changed in ((points, 0 * normals, gaps), (points, normals, 0 * gaps)):
        np.testing.assert_array_equal(onto_hyperplane(*changed, norm), np.zeros_like(points))


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e25])
@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_the_normals_does_not_matter(norm, scale):
    points, normals, gaps = problem(20)
    scaled = onto_hyperplane(points, normals * np.float32(scale), gaps * np.float32(scale), norm)
    np.testing.assert_allclose(scaled, onto_hyperplane(points, normals, gaps, norm), atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_rooms_and_normals_of_many_magnitudes(norm):
    generator = np.random.default_rng(5)
    points = (10.0 ** generator.uniform(-7, 0, size=(20, 500))).astype("float32")
    normals = (-(10.0 ** generator.uniform(-5, 0, size=(20, 500)))).astype("float32")
    reachable = (points.astype(float) * normals).sum(1)
    gaps = (reachable * np.linspace(0.001, 0.999, 20)).astype("float32")
    moves = onto_hyperplane(points, normals, gaps, norm)
    np.testing.assert_allclose((moves.numpy().astype(float) * normals).sum(1), gaps, rtol=2e-5)
    best = size_of(by_bisection(points, normals, gaps, norm), norm)
    np.testing.assert_allclose(size_of(moves, norm), best, rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_compiled_by_xla(norm):
    rows = problem(10)
    compiled = tf.function(lambda *rows: onto_hyperplane(*rows, norm), jit_compile=True)
    np.testing.assert_allclose(compiled(*rows), onto_hyperplane(*rows, norm), atol=1e-6)
