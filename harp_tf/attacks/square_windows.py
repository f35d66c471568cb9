"""The windows of the Square attack: how large they are, where they lie and the patterns they hold."""

import math

import numpy as np
import tensorflow as tf

# After so many queries the share of the image that a window covers is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def shares(queries: int, first: float) -> np.ndarray:
    """The share of the image that each query's window covers, float64 [queries], not rescaled to their number."""
    return first * 0.5 ** np.searchsorted(HALVINGS, np.arange(queries), side="left")


def sides(grid: tuple[int, ...], covered: np.ndarray, norm: str) -> np.ndarray:
    """The side lengths of square windows that cover so much of a grid (intervals of a vector), int [queries].

    For "l2", whose windows hold a pattern, they are odd and at least 3, if the grid is as large.
    """
    side = np.round((covered * math.prod(grid)) ** (1 / len(grid))).astype(int)
    side = np.maximum(side, 1) if norm == "linf" else np.maximum(side, 3) // 2 * 2 + 1
    return np.minimum(side, min(grid))


def pattern(grid: tuple[int, ...], side: int, *, turned: bool = False) -> np.ndarray:
    """The perturbation that an L2 window holds: two opposite hills, one beside the other.

    Args:
        grid: of the image.
        side: of the window.
        turned: whether the hills lie along the second axis in place of the first; a vector has only one.

    Returns:
        float32 of the grid's shape, of Euclidean norm 1, with the window in the corner at the origin.
    """
    half = side // 2
    hills = np.zeros([side] * len(grid))
    hills[:half] = _hill((half, *[side] * (len(grid) - 1)))
    hills[half:] = -_hill((side - half, *[side] * (len(grid) - 1)))
    if turned and len(grid) > 1:
        hills = np.swapaxes(hills, 0, 1)
    full = np.zeros(grid, np.float32)
    full[tuple(slice(side) for _ in grid)] = hills / np.linalg.norm(hills)
    return full


def tiles(grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """The tiles with which an L2 attack starts, five along the shortest axis, in the middle of the grid.

    Returns:
        float32 [2, *grid], the patterns of all tiles, as they are and turned, 0 outside; int32 of the grid's shape, to
        which tile each place belongs; and the number of tiles.
    """
    side = max(min(grid) // 5, 1)
    counts = [length // side for length in grid]
    patterns = np.zeros((2, *grid), np.float32)
    middle = tuple(slice((g - side * c) // 2, (g - side * c) // 2 + side * c) for g, c in zip(grid, counts))
    for turned in (0, 1):
        one = pattern((side,) * len(grid), side, turned=bool(turned))
        patterns[turned][middle] = np.tile(one, counts)
    places = [np.clip((np.arange(g) - part.start) // side, 0, c - 1) for g, part, c in zip(grid, middle, counts)]
    numbers = np.ravel_multi_index(tuple(np.meshgrid(*places, indexing="ij")), counts)
    return patterns, numbers.astype(np.int32), int(np.prod(counts))


def mask(grid: tuple[int, ...], corner: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Tells which places lie in the window, bool of the grid's shape.

    Args:
        grid: of the image.
        corner: int32 [axes of the grid], the window's first place.
        side: int32, of the window.
    """
    inside = tf.ones([1] * len(grid), tf.bool)
    for axis, length in enumerate(grid):
        places = tf.range(length)
        along = (places >= corner[axis]) & (places < corner[axis] + side)
        inside &= tf.reshape(along, [-1 if other == axis else 1 for other in range(len(grid))])
    return inside


def _hill(shape: tuple[int, ...]) -> np.ndarray:
    """Concentric boxes, one cell larger on every side and lower by the square of their number; of norm 1."""
    out = np.zeros(shape)
    centre = [length // 2 for length in shape]
    for ring in range(max(centre) + 1):
        box = tuple(slice(max(middle - ring, 0), middle + ring + 1) for middle in centre)
        out[box] += 1.0 / (ring + 1) ** 2
    size = np.linalg.norm(out)
    return out / size if size else out
