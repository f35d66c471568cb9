"""What a training step does where several replicas share a global batch; with one replica it is nothing.

`synchronized` and `local_statistics` are for networks; all else is called inside a step, which tf.distribute runs once
per replica, all at a time.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from harp_tf.attacks import draws

_STREAM = 1_000_003


def sums(tensors: Sequence[Any]) -> list[Any]:
    """The sums over the replicas of tensors or variables that each of them has, None for None."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return list(tensors)
    known = [tf.convert_to_tensor(tensor) for tensor in tensors if tensor is not None]
    found = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, known) if known else [])
    return [None if tensor is None else next(found) for tensor in tensors]


def level(variables: Sequence[keras.Variable], count: tf.Tensor) -> None:
    """Gives variables that the replicas moved apart their mean, so that the replicas stay the same.

    Args:
        variables: the same on all replicas before these took their step.
        count: int32 scalar, images of this replica; what it has learned from none does not count.
    """
    if tf.distribute.get_replica_context().num_replicas_in_sync > 1:
        seen = count > 0
        total, *totals = sums([tf.cast(seen, tf.float32), *(tf.where(seen, v, tf.zeros_like(v)) for v in variables)])
        for variable, found in zip(variables, totals, strict=True):
            variable.assign(found / tf.cast(total, found.dtype))


@contextlib.contextmanager
def synchronized(network: keras.Model) -> Iterator[None]:
    """While it is open, batch normalisation takes its statistics from the images of all replicas.

    The network is what it was afterwards: files do not tell in how many parts it was trained.
    """
    layers = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    before = [layer.synchronized for layer in layers]
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.synchronized = value


def local_statistics(network: keras.Model) -> list[keras.Variable]:
    """The moving statistics that a replica learns from its own images: those of unsynchronised batch normalisation."""
    return [
        variable
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


@dataclasses.dataclass(frozen=True)
class Share:
    """What one replica has of the global batch; replica r has the r-th part of it.

    Attributes:
        replicas: how many replicas share the batch.
        number: which of them this one is, from 0.
        count: int32 scalar, images of this replica; may be 0.
        start: place of the first of them in the global batch.
        total: int32 scalar, images of the global batch.
    """

    replicas: int
    number: int | tf.Tensor
    count: tf.Tensor
    start: int | tf.Tensor
    total: tf.Tensor

    @classmethod
    def of(cls, images: tf.Tensor) -> Self:
        """The share that these images [n, ...] are."""
        context = tf.distribute.get_replica_context()
        replicas, count = context.num_replicas_in_sync, tf.shape(images)[0]
        if replicas == 1:
            return cls(1, 0, count, 0, count)
        number = context.replica_id_in_sync_group
        (counts,) = sums([tf.one_hot(number, replicas) * tf.cast(count, tf.float32)])
        counts = tf.cast(counts, tf.int32)
        before = tf.reduce_sum(tf.where(tf.range(replicas) < number, counts, 0))
        return cls(replicas, number, count, before, tf.reduce_sum(counts))

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """This replica's part of the mean of `values` [n] over the global batch: the parts add up to the mean."""
        if self.replicas == 1:
            return tf.reduce_mean(values)
        return tf.reduce_sum(values) / tf.cast(self.total, values.dtype)

    def part(self, value: tf.Tensor) -> tf.Tensor:
        """This replica's part of a value that all replicas have: the parts add up to the value."""
        return value if self.replicas == 1 else value / self.replicas

    @contextlib.contextmanager
    def streams(self, states: Sequence[keras.Variable]) -> Iterator[None]:
        """While it is open, random layers such as Dropout draw other numbers on each replica.

        Args:
            states: of their generators, uint32 [2]; the same on all replicas before and after.
        """
        if self.replicas == 1:
            yield
            return
        offset = tf.stack([tf.cast(self.number, tf.uint32) * tf.constant(_STREAM, tf.uint32), 0])
        for state in states:
            state.assign(state + tf.cast(offset, state.dtype))
        yield
        for state in states:
            state.assign(state - tf.cast(offset, state.dtype))

    @contextlib.contextmanager
    def draws(self) -> Iterator[None]:
        """While it is open, attacks draw for each image what they would draw if one replica had the global batch."""
        with contextlib.nullcontext() if self.replicas == 1 else draws.part_of_batch(self.start, self.total):
            yield
