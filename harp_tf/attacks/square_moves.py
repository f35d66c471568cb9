"""How the Square attack starts and what each of its queries tries, in either norm."""

import abc

import numpy as np
import tensorflow as tf

from harp_tf.attacks import draws, square_windows
from harp_tf.attacks.geometry import L2

# The stream of the windows' random numbers; those of examples are keyed by numbers >= 0.
_WINDOWS = -1


class Moves(abc.ABC):
    """The random moves of one run; all are drawn at once and are the same for every example.

    Args:
        shape: of an image, its last axis the channels.
        eps: radius of the ball.
        queries: number of moves.
        p_init: share of the image that the first windows cover.
        seed: int32 [2] or [n, 2], the attack's; the windows depend on the first number alone.
    """

    norm: str

    def __init__(self, shape: tuple[int, ...], eps: float, queries: int, p_init: float, seed: tf.Tensor):
        *grid, self.channels = shape
        self.grid, self.eps, self.seed = tuple(grid), eps, seed
        self._sides = square_windows.sides(self.grid, square_windows.shares(queries, p_init), self.norm)
        first = seed[0] if seed.shape.rank == 1 else tf.reduce_max(seed[:, 0])
        drawn = tf.random.stateless_uniform([queries, 2 * len(grid) + self.channels + 1], tf.stack([first, _WINDOWS]))
        corners, other_corners, signs, turns = tf.split(drawn, [len(grid), len(grid), self.channels, 1], axis=1)
        last = np.array(grid) - self._sides[:, None]  # the last place at which a window can begin
        self._corners = tf.cast(corners * (last + 1.0), tf.int32)
        self._other_corners = tf.cast(other_corners * (last + 1.0), tf.int32)
        self._signs = _sign(signs)
        self._turns = tf.cast(turns[:, 0] < 0.5, tf.int32)

    @abc.abstractmethod
    def start(self, images: tf.Tensor) -> tf.Tensor:
        """Where the search begins, [n, ...]; each example has its own signs."""

    @abc.abstractmethod
    def changes(self, query: tf.Tensor, points: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Tells for which points the query's move does anything, bool [n]."""

    @abc.abstractmethod
    def move(self, query: tf.Tensor, points: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The points after the query's move, inside the ball around the images and inside [0, 1]."""

    def _side(self, query: tf.Tensor) -> tf.Tensor:
        return tf.constant(self._sides, tf.int32)[query]

    def _mask(self, query: tf.Tensor, corners: tf.Tensor) -> tf.Tensor:
        """The query's window at one of the corners, bool [*grid, 1]."""
        return square_windows.mask(self.grid, corners[query], self._side(query))[..., None]


class LinfMoves(Moves):
    """Starts with vertical stripes; moves set a window to -eps or eps, in each channel."""

    norm = "linf"

    def start(self, images: tf.Tensor) -> tf.Tensor:
        # A stripe runs along the first axis; a vector has only one axis, and a sign for every entry.
        stripes = (1, *self.grid[1:]) if len(self.grid) > 1 else self.grid
        drawn = draws.uniform([tf.shape(images)[0], *stripes, self.channels], self.seed)
        return self._at(images, _sign(drawn))

    def changes(self, query: tf.Tensor, points: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        begin = tf.concat([[0], self._corners[query], [0]], 0)
        size = tf.concat([[-1], tf.fill([len(self.grid)], self._side(query)), [-1]], 0)
        held, here = tf.slice(points, begin, size), tf.slice(images, begin, size)
        axes = list(range(1, len(points.shape)))
        return tf.reduce_any(held != self._at(here, self._signs[query]), axis=axes)

    def move(self, query: tf.Tensor, points: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        return tf.where(self._mask(query, self._corners), self._at(images, self._signs[query]), points)

    def _at(self, images: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(images + self.eps * signs, 0.0, 1.0)


class L2Moves(Moves):
    """Starts with tiles; moves give the budget of two windows, and what is left over, to a pattern in the first."""

    norm = "l2"

    def __init__(self, shape: tuple[int, ...], eps: float, queries: int, p_init: float, seed: tf.Tensor):
        super().__init__(shape, eps, queries, p_init, seed)
        different, kinds = np.unique(self._sides, return_inverse=True)
        self._kinds = tf.constant(kinds, tf.int32)
        self._patterns = tf.constant(
            np.array([[square_windows.pattern(self.grid, side, turned=t) for t in (False, True)] for side in different])
        )

    def start(self, images: tf.Tensor) -> tf.Tensor:
        patterns, places, count = square_windows.tiles(self.grid)
        drawn = draws.uniform([tf.shape(images)[0], count, self.channels + 1], self.seed)
        signs, turns = tf.split(tf.gather(_sign(drawn), places, axis=1), [self.channels, 1], axis=-1)
        tiled = tf.where(turns > 0, patterns[1][..., None], patterns[0][..., None])
        return self._at(images, signs * tiled)

    def changes(self, query: tf.Tensor, points: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        return tf.fill(tf.shape(points)[:1], True)

    def move(self, query: tf.Tensor, points: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        change = points - images
        window = tf.cast(self._mask(query, self._corners), tf.float32)
        either = tf.maximum(window, tf.cast(self._mask(query, self._other_corners), tf.float32))
        pattern = self._patterns[self._kinds[query], self._turns[query]]
        pattern = tf.roll(pattern, self._corners[query], list(range(len(self.grid))))[..., None] * self._signs[query]
        inside = change * window
        mixed = pattern + inside / (1e-12 + self._lengths(inside))
        axes = list(range(1, len(points.shape)))
        unused = tf.maximum(self.eps**2 - tf.reduce_sum(tf.square(change), axes, keepdims=True), 0.0)
        budget = tf.sqrt(unused / self.channels + tf.square(self._lengths(change * either)))
        mixed *= budget / (1e-12 + self._lengths(mixed))
        return self._at(images, change * (1.0 - either) + mixed)

    def _lengths(self, change: tf.Tensor) -> tf.Tensor:
        """Euclidean norms, channel by channel, [n, 1, ..., channels]."""
        return tf.sqrt(tf.reduce_sum(tf.square(change), list(range(1, len(self.grid) + 1)), keepdims=True))

    def _at(self, images: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(images + self.eps * L2().step(change), 0.0, 1.0)


def _sign(uniform: tf.Tensor) -> tf.Tensor:
    """-1 or 1 of numbers in [0, 1)."""
    return tf.where(uniform < 0.5, -1.0, 1.0)
