"""One update from a batch that is computed in parts: its gradients are the means of those of the parts."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from harp_tf.types import HarpError

Tensors = list[tf.Tensor | None]
Computed = tuple[Tensors, Tensors]
"""What adds up over the parts, and what has a row for each example; None where there is none, in all parts alike."""


def split(tensor: tf.Tensor, parts: int) -> tf.Tensor:
    """Cuts a batch into parts of one size.

    Args:
        tensor: [n, ...].
        parts: how many, >= 1.

    Returns:
        The parts in their order, [parts, n / parts, ...].

    Raises:
        HarpError: if n is known and no multiple of `parts`. An open n is checked when the graph runs.
    """
    count = tensor.shape[0]
    message = f"accumulate={parts} needs batches that divide into {parts} parts of one size"
    if count is not None and count % parts:
        raise HarpError(
            f"{message}, received one of {count}. Change the batch size, and leave out a smaller last batch."
        )
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(tensor)[0] % parts, 0, message)]):
        sizes = [parts, tf.shape(tensor)[0] // parts if count is None else count // parts]
        found = tf.reshape(tensor, [*sizes, *tensor.shape[1:]])
    found.set_shape([parts, None if count is None else count // parts, *tensor.shape[1:]])
    return found


def in_parts(
    compute: Callable[..., Computed], batch: Sequence[tf.Tensor | None], parts: int, like: Sequence, rows: int
) -> Computed:
    """Computes a batch part by part, so that it takes the memory of one part.

    The parts are the turns of one loop of the graph: written out, a deep network's graph in several parts takes more
    memory and time than its activations. With several replicas they are written out nevertheless, one after the
    other, since replicas cannot exchange anything within a loop.

    Args:
        compute: (number of the part, its part of each tensor of `batch`) -> what it computed. Calls may differ
            in values only.
        batch: tensors [n, ...], or None, which each part gets as None.
        parts: how many, >= 1; n is a multiple of it.
        like: tensors or variables with the shapes and dtypes of what adds up.
        rows: how many tensors with a row for each example there are, float32 and at least one of them not None.

    Returns:
        The sums over the parts, and the rows of the whole batch in its order.

    Raises:
        HarpError: see `split`.
    """
    if parts == 1:
        return compute(0, *batch)
    cut = [None if tensor is None else split(tensor, parts) for tensor in batch]

    def part(number: int | tf.Tensor) -> Computed:
        return compute(number, *(None if tensor is None else tensor[number] for tensor in cut))

    if tf.distribute.get_replica_context().num_replicas_in_sync > 1:
        return _written_out(part, parts)
    return _in_a_loop(part, parts, like, rows)


def _written_out(part: Callable[[int], Computed], parts: int) -> Computed:
    sums, rows = part(0)
    collected = [rows]
    for number in range(1, parts):
        # Each operation waits for one other, not for each sum, which would be millions of edges in a deep network.
        with tf.control_dependencies([tf.group(*(one for one in sums if one is not None))]):
            more, rows = part(number)
        sums = [None if a is None else tf.convert_to_tensor(a) + tf.convert_to_tensor(b) for a, b in zip(sums, more)]
        collected.append(rows)
    return sums, [None if column[0] is None else tf.concat(column, axis=0) for column in zip(*collected)]


def _in_a_loop(part: Callable[[tf.Tensor], Computed], parts: int, like: Sequence, rows: int) -> Computed:
    known: list[list[bool]] = []  # what is not None, seen when the loop's body is traced

    def turn(number: tf.Tensor, sums: list[tf.Tensor], arrays: list[tf.TensorArray]) -> tuple[Any, ...]:
        more, found = part(number)
        known[:] = [[one is not None for one in column] for column in (more, found)]
        sums = [a if b is None else a + tf.convert_to_tensor(b) for a, b in zip(sums, more, strict=True)]
        filler = tf.zeros_like(next(one for one in found if one is not None))
        found = [filler if one is None else one for one in found]
        return number + 1, sums, [array.write(number, one) for array, one in zip(arrays, found, strict=True)]

    zeros = [tf.zeros(one.shape, one.dtype) for one in like]
    _, sums, arrays = tf.while_loop(
        lambda number, *_: number < parts,
        turn,
        (tf.constant(0), zeros, [tf.TensorArray(tf.float32, parts) for _ in range(rows)]),
        parallel_iterations=1,
    )
    whole = [tf.concat(tf.unstack(array.stack(), parts), axis=0) for array in arrays]
    found = [[one if there else None for one, there in zip(*pair, strict=True)] for pair in zip((sums, whole), known)]
    return found[0], found[1]
