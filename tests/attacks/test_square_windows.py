"""Sizes, patterns and masks of the Square attack's windows, against literal values."""

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import square_windows


def test_the_share_is_halved_after_so_many_queries():
    shares = square_windows.shares(9000, 0.8)
    changes = np.flatnonzero(np.diff(shares)) + 1
    np.testing.assert_array_equal(changes, [11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001])
    np.testing.assert_allclose(shares[[0, 10, 11, 51, 201, 4999, 8999]], 0.8 / 2.0 ** np.array([0, 0, 1, 2, 3, 7, 9]))
    np.testing.assert_array_equal(square_windows.shares(100, 0.8), shares[:100])  # not rescaled


def test_sides_on_fashion_mnist_and_cifar():
    shares = square_windows.shares(5000, 0.8)[[0, 11, 51, 201, 501, 1001, 2001, 4001]]
    # By hand: the root of the share of 784 places, rounded; for L2 odd and at least 3.
    assert square_windows.sides((28, 28), shares, "linf").tolist() == [25, 18, 13, 9, 6, 4, 3, 2]
    assert square_windows.sides((28, 28), shares, "l2").tolist() == [25, 19, 13, 9, 7, 5, 3, 3]
    assert square_windows.sides((32, 32), shares, "linf").tolist() == [29, 20, 14, 10, 7, 5, 4, 3]


def test_sides_of_vectors_and_of_small_and_oblong_images():
    shares = np.array([0.8, 0.1, 1e-6])
    assert square_windows.sides((50,), shares, "linf").tolist() == [40, 5, 1]
    assert square_windows.sides((50,), shares, "l2").tolist() == [41, 5, 3]
    assert square_windows.sides((4, 40), shares, "linf").tolist() == [4, 4, 1]
    assert square_windows.sides((2, 2), shares, "l2").tolist() == [2, 2, 2]


def test_the_pattern_is_that_of_the_official_code():
    pattern = square_windows.pattern((6, 5), 5)
    # What the official code returns for a side of 5, to six decimals.
    expected = [
        [0.049162, 0.159777, 0.159777, 0.159777, 0.049162],
        [0.049162, 0.159777, 0.602237, 0.159777, 0.049162],
        [-0.045590, -0.148168, -0.148168, -0.148168, -0.045590],
        [-0.045590, -0.148168, -0.558479, -0.148168, -0.045590],
        [-0.045590, -0.148168, -0.148168, -0.148168, -0.045590],
    ]
    np.testing.assert_allclose(pattern[:5], expected, atol=1e-6)
    assert (pattern[5] == 0).all()
    np.testing.assert_array_equal(square_windows.pattern((5, 6), 5, turned=True), pattern.T)


@pytest.mark.parametrize("grid, side", [((9, 9), 7), ((12,), 5), ((4, 4), 1), ((1, 3), 1), ((5, 5, 5), 3)])
def test_patterns_have_length_one_inside_their_window(grid, side):
    for turned in (False, True):
        pattern = square_windows.pattern(grid, side, turned=turned)
        assert pattern.shape == grid and pattern.dtype == np.float32
        assert np.linalg.norm(pattern) == pytest.approx(1.0, abs=1e-6)
        assert (pattern[tuple(slice(side) for _ in grid)] != 0).all()
        assert np.count_nonzero(pattern) == side ** len(grid)


def test_five_tiles_along_each_axis_leave_a_margin():
    patterns, places, count = square_windows.tiles((28, 28))
    assert count == 25
    np.testing.assert_array_equal(patterns[1], patterns[0].T)
    inside = patterns[0] != 0
    assert inside[1:26, 1:26].all() and inside.sum() == 25 * 25
    one = square_windows.pattern((5, 5), 5)
    for tile in range(25):
        row, column = np.argwhere((places == tile) & inside)[0]
        assert (row, column) == (1 + 5 * (tile // 5), 1 + 5 * (tile % 5))
        np.testing.assert_array_equal(patterns[0][row : row + 5, column : column + 5], one)


@pytest.mark.parametrize("grid, count", [((4, 3), 12), ((23,), 5), ((10, 25), 5 * 12)])
def test_tiles_of_small_oblong_and_flat_grids(grid, count):
    patterns, places, found = square_windows.tiles(grid)
    assert found == count == len(np.unique(places))
    assert patterns.shape == (2, *grid) and np.isfinite(patterns).all()
    np.testing.assert_allclose((patterns**2).sum(axis=tuple(range(1, patterns.ndim))), count, rtol=1e-5)


@pytest.mark.parametrize("grid, corner, side", [((5, 6), (2, 3), 3), ((7,), (6,), 1), ((4, 4, 4), (0, 1, 2), 2)])
def test_the_mask_is_the_window(grid, corner, side):
    expected = np.zeros(grid, bool)
    expected[tuple(slice(first, first + side) for first in corner)] = True
    np.testing.assert_array_equal(square_windows.mask(grid, tf.constant(corner), tf.constant(side)), expected)
