"""Data sets too large for memory, read record by record from TFDS files."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import PurePath

import tensorflow as tf

from harp_tf.data import augment
from harp_tf.data.splits import Split, endless

# Records that are shuffled among each other, before decoding: some 200 MB of ImageNet's JPEGs.
WINDOW = 2048
FILES_AT_ONCE = 16


class StreamedSplit(Split):
    """Images decoded on the way from files, for sets that do not fit into memory.

    An epoch shuffles the files, reads 16 of them in turns, and shuffles each window of 2048 records:
    all keyed by (seed, epoch), without the state of `tf.data.Dataset.shuffle`, so that a run can be resumed.

    Args:
        records: What to read: TFDS' file instructions, with `filename`, `skip` and `take`.
        decode: Turns a serialised record into a uint8 image [H, W, C] and a label.
        resize: Height and width in pixels to which images of varying sizes are brought (centre crop for
            `batches`, random-resized crop and mirroring for `training_batches`); None for images of one size,
            which are neither resized nor augmented.
    """

    def __init__(self, records: Sequence, decode: Callable, *, resize: int | None):
        self.num_examples = sum(part.take for part in records)
        self._records = tuple(records)
        self._decode = decode
        self._resize = resize

    def batches(self, batch_size: int) -> tf.data.Dataset:
        def example(record):
            image, label = self._decode(record)
            if self._resize is not None:
                return augment.center_crop(image, self._resize), tf.cast(label, tf.int32)
            return tf.cast(image, tf.float32) / 255.0, tf.cast(label, tf.int32)

        records = self._read(tf.data.Dataset.range(len(self._records), output_type=tf.int32))
        return records.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, rows: range | None = None
    ) -> tf.data.Dataset:
        steps = self.steps_per_epoch(batch_size)
        rows = range(batch_size) if rows is None else rows
        first_epoch, first_batch = divmod(first_step, steps)

        def one_epoch(epoch):
            key = tf.stack([tf.constant(seed, tf.int64), epoch])

            def example(position, record):
                image, label = self._decode(record)
                if self._resize is None:
                    return tf.cast(image, tf.float32) / 255.0, tf.cast(label, tf.int32)
                image_key = tf.random.experimental.stateless_fold_in(key, position)
                return augment.random_resized_crop(image, self._resize, image_key), tf.cast(label, tf.int32)

            def is_own(position, record):
                row = position % batch_size
                return (row >= rows.start) & (row < rows.stop)

            skipped = tf.where(epoch == first_epoch, first_batch * batch_size, 0)
            records = self._shuffled(key).enumerate().take(steps * batch_size).skip(tf.cast(skipped, tf.int64))
            if len(rows) < batch_size:
                records = records.filter(is_own)
            examples = records.map(example, num_parallel_calls=tf.data.AUTOTUNE)
            return examples.batch(len(rows), drop_remainder=True)

        return endless(tf.data.Dataset.counter(first_epoch).flat_map(one_epoch))

    def checksum(self) -> str:
        # Of names and sizes: to read ImageNet only for this would take minutes.
        files = [(part.filename, part.skip, part.take) for part in self._records]
        told = [(PurePath(name).name, tf.io.gfile.stat(name).length, skip, take) for name, skip, take in files]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def _shuffled(self, key) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(self._records)), key)

        def shuffle_window(number, window):
            return tf.random.experimental.stateless_shuffle(
                window, tf.random.experimental.stateless_fold_in(key, number)
            )

        windows = self._read(tf.data.Dataset.from_tensor_slices(order)).batch(WINDOW).enumerate()
        return windows.map(shuffle_window).unbatch()

    def _read(self, numbers: tf.data.Dataset) -> tf.data.Dataset:
        paths = tf.constant([part.filename for part in self._records])
        skips = tf.constant([part.skip for part in self._records], tf.int64)
        takes = tf.constant([part.take for part in self._records], tf.int64)
        return numbers.interleave(
            lambda number: tf.data.TFRecordDataset(paths[number]).skip(skips[number]).take(takes[number]),
            cycle_length=FILES_AT_ONCE,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
