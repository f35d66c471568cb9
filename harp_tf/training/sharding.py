"""How global batches are cut for the replicas of a strategy, and what replicas keep for each image is put together."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from harp_tf.training.replicas import sums
from harp_tf.types import HarpError


@dataclasses.dataclass(frozen=True)
class RowsOfBatches:
    """Global batches of which every worker makes its own rows only, where whole ones would cost each of them too much.

    Attributes:
        of: rows of a batch -> a tf.data.Dataset of these rows of all batches, endless.
        batch_size: rows of a whole batch.
    """

    of: Callable[[range], tf.data.Dataset]
    batch_size: int

    def whole(self) -> tf.data.Dataset:
        """The global batches."""
        return self.of(range(self.batch_size))

    def of_replicas(self, replicas: int, numbers: range, rows: int | None) -> tf.data.Dataset:
        """As `parts` of the global batches."""
        size = -(-(rows or self.batch_size) // replicas)
        own = range(numbers.start * size, min(numbers.stop * size, self.batch_size))
        if not own:
            return parts(self.whole(), replicas, numbers, rows)
        return parts(self.of(own), len(numbers), range(len(numbers)), len(numbers) * size)


def sharded(strategy: tf.distribute.Strategy, data: Any, rows: int | None = None) -> Any:
    """Cuts global batches for the replicas of a strategy, so that none of their images is lost or seen twice.

    Of n replicas, the r-th gets images r * k to (r + 1) * k of every batch, k being the n-th part of the batch, rounded
    up. Of a small batch, such as the last, some replicas may get nothing.

    Args:
        strategy: the strategy.
        data: a tf.data.Dataset of global batches, or `RowsOfBatches`, the same in all workers; or None, which comes
            back.
        rows: size of the batch whose n-th part is k, which no batch may exceed; default: that of each batch.

    Raises:
        HarpError: if there are several replicas and `data` is something else.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1 or data is None:
        return data
    if not isinstance(data, (tf.data.Dataset, RowsOfBatches)):
        raise HarpError(
            f"Under a strategy of {replicas} replicas the data must be a tf.data.Dataset of batches, received "
            f"{type(data).__name__}: tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)."
        )

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = replicas // context.num_input_pipelines
        numbers = range(context.input_pipeline_id * local, (context.input_pipeline_id + 1) * local)
        if isinstance(data, RowsOfBatches):
            return data.of_replicas(replicas, numbers, rows)
        return parts(data, replicas, numbers, rows)

    return strategy.distribute_datasets_from_function(of_worker)


def parts(data: tf.data.Dataset, replicas: int, numbers: range, rows: int | None = None) -> tf.data.Dataset:
    """The parts that some of all replicas get of global batches, one after another.

    Args:
        data: batches, each a tuple of tensors.
        replicas: how many there are.
        numbers: which of them.
        rows: see `sharded`.
    """

    def of_batch(*batch: tf.Tensor) -> tf.data.Dataset:
        def of_replica(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tuple(_rows(tensor, number, replicas, rows) for tensor in batch)

        return tf.data.Dataset.range(numbers.start, numbers.stop, output_type=tf.int32).map(of_replica)

    found = data.flat_map(of_batch)
    if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        # Which lets the workers go on without asking each other whether there is another batch.
        found = found.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return found.prefetch(tf.data.AUTOTUNE)


def _rows(tensor: tf.Tensor, number: tf.Tensor, replicas: int, rows: int | None) -> tf.Tensor:
    """The rows of a batch that the replica of this number gets."""
    size = -(-(rows or tf.shape(tensor)[0]) // replicas)
    if rows is not None:  # else rows at the end would be lost
        message = f"A batch is larger than the {rows} images that are kept for each: raise batch_size."
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.shape(tensor)[0], rows, message)]):
            tensor = tf.identity(tensor)
    part = tensor[number * size : (number + 1) * size]
    whole = tensor.shape[0]
    if whole is not None and whole % replicas == 0 and rows in (None, whole):
        part = tf.ensure_shape(part, [whole // replicas, *tensor.shape[1:]])
    return part


def gather_rows(strategy: tf.distribute.Strategy, variable: keras.Variable) -> None:
    """Gives every replica the rows of a variable that the others keep, cut like a batch of as many rows.

    All workers have to call it together.

    Args:
        strategy: the strategy.
        variable: of shape [rows, ...], of which each replica has its own values.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return

    def gather() -> None:
        owner = tf.range(variable.shape[0]) // -(-variable.shape[0] // count)
        mine = owner == tf.distribute.get_replica_context().replica_id_in_sync_group
        mine = tf.reshape(mine, [-1] + [1] * (len(variable.shape) - 1))
        variable.assign(sums([tf.where(mine, variable, 0.0)])[0])

    tf.function(lambda: strategy.run(gather))()
