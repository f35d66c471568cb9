"""What a data set is to the rest of the library: three splits that hand out batches."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from harp_tf.types import HarpError


class Split(ABC):
    """A part of a data set.

    Batches are pairs (images, labels): float32 [batch, H, W, C] in [0, 1] and int32 [batch].

    Attributes:
        num_examples: Number of images.
    """

    num_examples: int

    @abstractmethod
    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Returns one pass in a fixed order, without augmentation; the last batch may be smaller."""

    @abstractmethod
    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, rows: range | None = None
    ) -> tf.data.Dataset:
        """Returns endless full batches, shuffled and augmented.

        Batch number `s` depends on the seed and on `s` alone: the order is keyed by (seed, epoch), the
        augmentation by (seed, epoch, image), so that a resumed run sees what it would have seen.

        Args:
            batch_size: Images in a batch; an epoch drops the images that do not fill one.
            seed: Keys order and augmentation.
            first_step: Number of batches to leave out at the beginning (they are not computed).
            rows: Which rows of every batch to make, one after another, for a worker that has its part of it (the
                others are not decoded); None makes whole batches.

        Raises:
            HarpError: If the split has fewer images than a batch.
        """

    @abstractmethod
    def checksum(self) -> str:
        """Returns a SHA-256 that tells other images, labels or another order from these, without decoding files."""

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all images, float32 [n, H, W, C] in [0, 1], and labels, int32 [n], of a split in memory."""
        raise HarpError(f"These {self.num_examples} images are read from files as needed; use batches(batch_size).")

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of full batches in the split."""
        if batch_size < 1:
            raise HarpError(f"A batch needs at least one image, received batch size {batch_size}.")
        steps = self.num_examples // batch_size
        if steps == 0:
            raise HarpError(
                f"A batch of {batch_size} does not fit into the {self.num_examples} images of this split. "
                "Use a smaller batch size or more images."
            )
        return steps


def endless(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prepares batches ahead of time, and states what tf.data cannot see: that there is no last one."""
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)).prefetch(
        tf.data.AUTOTUNE
    )


@dataclass(frozen=True)
class Cuts:
    """How a data set is cut into splits; `harp_tf.data.load` documents the fields."""

    seed: int
    validation_fraction: float
    train_limit: int | None
    test_limit: int | None

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise HarpError(f"The validation fraction must be between 0 and 1, received {self.validation_fraction}.")
        for name, limit in (("training", self.train_limit), ("test", self.test_limit)):
            if limit is not None and limit < 1:
                raise HarpError(f"The limit of {name} images must be at least 1, received {limit}.")

    def counts(self, num_train: int, num_validation: int) -> tuple[int, int]:
        """Returns how many training and validation images `train_limit` leaves of those that there are."""
        if self.train_limit is None or self.train_limit >= num_train:
            return num_train, num_validation
        share = self.validation_fraction / (1 - self.validation_fraction)
        return self.train_limit, min(num_validation, max(1, round(self.train_limit * share)))


@dataclass(frozen=True)
class DataSplits:
    """An image classification data set.

    Attributes:
        name: The specification it was loaded from.
        input_shape: (height, width, channels) of every image.
        num_classes: Labels are 0 .. num_classes - 1.
        class_names: One name per class.
        train: For training; the only split with augmentation.
        validation: Cut from the training images; for choosing among models.
        test: For the final numbers and nothing else.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def record(self) -> dict[str, dict]:
        """Returns what tells these images from others, by split: {"images": how many, "sha256": their checksum}."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: {"images": part.num_examples, "sha256": part.checksum()} for name, part in parts.items()}
