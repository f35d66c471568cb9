"""Data sets that fit into memory: arrays in, splits out."""

import numpy as np
import tensorflow as tf

from harp_tf.data import augment
from harp_tf.data.splits import Cuts, DataSplits, Split, endless
from harp_tf.files import arrays_checksum
from harp_tf.types import AUGMENTATIONS, HarpError, require_choice

# Seed of every cut that must be the same in all runs, so that their test results can be compared.
FIXED_SEED = 0

# Images (uint8 in [0, 255] or float32 in [0, 1]; [n, H, W, C]) and their labels (integers [n]).
Labelled = tuple[np.ndarray, np.ndarray]


class MemorySplit(Split):
    """Images in memory, gathered a whole batch at a time.

    Args:
        images: uint8 [n, H, W, C] in [0, 255] or float32 in [0, 1].
        labels: Integers [n].
        shift: Whether training batches are shifted by random amounts.
        mirror: Whether they are mirrored at random as well.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, shift: bool = False, mirror: bool = False):
        self.num_examples = len(images)
        self._shift = shift
        self._mirror = mirror
        with tf.device("CPU:0"):
            self._images = tf.constant(images)
            self._labels = tf.constant(labels, tf.int32)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        def batch(start):
            end = tf.minimum(start + batch_size, self.num_examples)
            return _to_float(self._images[start:end]), self._labels[start:end]

        starts = tf.data.Dataset.range(0, self.num_examples, batch_size)
        return starts.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, rows: range | None = None
    ) -> tf.data.Dataset:
        steps = self.steps_per_epoch(batch_size)
        rows = range(batch_size) if rows is None else rows
        first_epoch, first_batch = divmod(first_step, steps)

        def order(epoch):
            # A true permutation: `index_shuffle`, with its 4 rounds, visibly favours some orders over others.
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            indices = tf.random.experimental.stateless_shuffle(tf.range(self.num_examples), key)
            indices = tf.reshape(indices[: steps * batch_size], [steps, batch_size])[:, rows.start : rows.stop]
            if not self._shift:
                return tf.data.Dataset.from_tensor_slices((indices,))
            draws = tf.gather(augment.draws_of_epoch(self.num_examples, seed=seed, epoch=epoch), indices)
            return tf.data.Dataset.from_tensor_slices((indices, draws))

        def batch(indices, draws=None):
            images = tf.ensure_shape(tf.gather(self._images, indices), [len(rows), *self._images.shape[1:]])
            if draws is not None:
                images = augment.crop_and_flip(images, draws, flip=self._mirror)
            return _to_float(images), tf.gather(self._labels, indices)

        orders = tf.data.Dataset.counter(first_epoch).flat_map(order).skip(first_batch)
        return endless(orders.map(batch, num_parallel_calls=tf.data.AUTOTUNE))

    def checksum(self) -> str:
        return arrays_checksum(self._images.numpy(), self._labels.numpy())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return _to_float(self._images).numpy(), self._labels.numpy()


def _to_float(images):
    return tf.cast(images, tf.float32) / 255.0 if images.dtype == tf.uint8 else images


def split_arrays(
    name: str, train: Labelled, test: Labelled, class_names: tuple[str, ...], cuts: Cuts, augmentation: str = "auto"
) -> DataSplits:
    """Returns the splits of a data set in memory; validation is cut from `train`.

    Args:
        name: The specification of the data set.
        train: Images (uint8, or float32 in [0, 1]) [n, H, W, C] and labels [n].
        test: The same for the test images.
        class_names: One name per class.
        cuts: How to cut it.
        augmentation: One of `AUGMENTATIONS`, for the training images. "auto" shifts and mirrors 32x32 colour images, as
            is the custom for CIFAR-10; sets with "svhn" in their name are only shifted: a mirrored digit is none.
    """
    require_choice("augment", augmentation, AUGMENTATIONS)
    _check(name, train, test, class_names)
    images, labels = train
    kept, cut = stratified_cut(labels, cuts.validation_fraction, cuts.seed)
    if len(cut) == 0:
        raise HarpError(f"Data set '{name}' has one training image per class; validation needs images too.")
    num_train, num_validation = cuts.counts(len(kept), len(cut))
    kept = _mixed(_subset(kept, num_train, cuts.seed), labels)
    cut = _mixed(_subset(cut, num_validation, cuts.seed), labels)
    chosen = _mixed(_subset(np.arange(len(test[1])), cuts.test_limit, FIXED_SEED), test[1])
    if augmentation == "auto":
        augmentation = _customary(name, images.shape[1:])
    shift, mirror = augmentation != "none", augmentation == "shift+mirror"
    return DataSplits(
        name=name,
        input_shape=tuple(images.shape[1:]),
        num_classes=len(class_names),
        class_names=class_names,
        train=MemorySplit(images[kept], labels[kept], shift=shift, mirror=mirror),
        validation=MemorySplit(images[cut], labels[cut]),
        test=MemorySplit(test[0][chosen], test[1][chosen]),
    )


def _customary(name: str, shape: tuple[int, ...]) -> str:
    if shape != (32, 32, 3):
        return "none"
    return "shift" if "svhn" in name.lower() else "shift+mirror"


def numbered_classes(place: str, labels: np.ndarray) -> tuple[str, ...]:
    """Returns the class names "0", "1", ... of training labels that come without names.

    Args:
        place: Where the labels come from, for the message.
        labels: Integers [n].

    Raises:
        HarpError: If the labels are not 0 .. classes - 1, each of them present.
    """
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        raise HarpError(
            f"{place}: training labels must be 0 .. classes - 1, with images of every class; received "
            f"{len(present)} different labels from {present[0]} to {present[-1]}. Number the classes from "
            "0 without gaps."
        )
    return tuple(str(label) for label in present)


def part_of_class(fraction: float, count: int) -> int:
    """How many images a cut takes of a class of `count`: one at least, and not all, if there are two or more."""
    return min(max(round(fraction * count), 1), count - 1)


def stratified_cut(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted indices that stay and those cut: `fraction` of every class.

    Of a class of two or more at least one is cut and one stays.
    """
    generator = np.random.default_rng(seed)
    cut = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        cut.append(members[: part_of_class(fraction, len(members))])
    indices = np.sort(np.concatenate(cut))
    return np.setdiff1d(np.arange(len(labels)), indices), indices


def _subset(indices: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    if limit is None or limit >= len(indices):
        return indices
    return np.sort(np.random.default_rng(seed).permutation(indices)[:limit])


def _mixed(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """In an order by lot where they come class by class: whoever takes the first ones wants images of all classes."""
    classes = labels[indices]
    blocks = 1 + np.count_nonzero(np.diff(classes))
    return np.random.default_rng(FIXED_SEED).permutation(indices) if blocks == len(np.unique(classes)) else indices


def _check(name: str, train, test, class_names) -> None:
    for part, (images, labels) in (("training", train), ("test", test)):
        if images.ndim != 4 or len(images) != len(labels) or len(images) == 0:
            raise HarpError(
                f"Data set '{name}': expected {part} images [n, height, width, channels] and n labels, "
                f"n > 0; received images of shape {images.shape} and labels of shape {labels.shape}."
            )
    if train[0].shape[1:] != test[0].shape[1:] or train[0].dtype != test[0].dtype:
        raise HarpError(
            f"Data set '{name}': training images are {train[0].shape[1:]} {train[0].dtype}, test images "
            f"{test[0].shape[1:]} {test[0].dtype}; they must agree."
        )
    if len(class_names) < 2:
        raise HarpError(f"Data set '{name}' has {len(class_names)} class; a classifier needs at least 2.")
    for part, (_, labels) in (("training", train), ("test", test)):
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise HarpError(
                f"Data set '{name}': {part} labels run from {labels.min()} to {labels.max()}, but its "
                f"classes are 0 .. {len(class_names) - 1}. Test images need the classes of the training ones."
            )
