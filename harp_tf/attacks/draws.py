"""Random numbers for attacks, of one stream for a batch or of one stream for each example."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

_FOLD = 1_000_003
_HERE = threading.local()


@contextlib.contextmanager
def part_of_batch(start: int | tf.Tensor, total: int | tf.Tensor) -> Iterator[None]:
    """While it is open, batches are parts of a larger one, whose numbers they get from the one stream for a batch.

    Args:
        start: place of the part's first example in the whole batch.
        total: number of examples in the whole batch.
    """
    _HERE.part = (start, total)
    try:
        yield
    finally:
        del _HERE.part


def uniform(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Uniform float32 numbers in [low, high).

    Args:
        shape: shape of the batch [n, ...], or of anything if `seed` has shape [2] and no `part_of_batch` is open.
        seed: int32 [2], or int32 [n, 2] with one seed per example, whose numbers then depend neither on the size of
            the batch nor on the example's place in it.
        low: lower end.
        high: upper end.

    Returns:
        float32 of the given shape.
    """
    return _draw(lambda s, of: tf.random.stateless_uniform(s, of, low, high), shape, seed)


def normal(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal float32 numbers; arguments as in `uniform`."""
    return _draw(tf.random.stateless_normal, shape, seed)


def fold(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """Derives another seed of the same shape, for the given number >= 0."""
    return seed + _FOLD * tf.stack([tf.cast(number, tf.int32) + 1, 0])


def per_example(seed: int | tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """The seeds [n, 2] of examples, from the seed of the run and the examples' places in the data set."""
    indices = tf.cast(indices, tf.int32)
    return tf.stack([tf.fill(tf.shape(indices), tf.cast(seed, tf.int32)), indices], axis=1)


def _draw(draw: Callable, shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    seed = tf.convert_to_tensor(seed, tf.int32)
    if seed.shape.rank == 1:
        part = getattr(_HERE, "part", None)
        if part is None:
            return draw(shape, seed)
        start, total = part
        shape = tf.convert_to_tensor(shape)
        return draw(tf.concat([[total], shape[1:]], 0), seed)[start : start + shape[0]]
    one = tf.convert_to_tensor(shape)[1:]
    return tf.reshape(tf.map_fn(lambda s: draw(one, s), seed, fn_output_signature=tf.float32), shape)
