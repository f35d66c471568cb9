"""From what the user names to three splits."""

import dataclasses
from collections.abc import Sequence

from harp_tf.data import digits, folder, idx, npz, tfds_source
from harp_tf.data.memory import split_arrays
from harp_tf.data.splits import Cuts, DataSplits
from harp_tf.types import HarpError, require_class_names


def load(
    spec: str = "digits",
    *,
    seed: int = 0,
    validation_fraction: float = 0.1,
    train_limit: int | None = None,
    test_limit: int | None = None,
    download: bool = False,
    data_dir: str | None = None,
    class_names: Sequence[str] = (),
    augment: str = "auto",
) -> DataSplits:
    """Loads an image classification data set and cuts a validation split from its training images.

    Args:
        spec: `digits` (in scikit-learn, 8x8); `idx:DIR` (IDX files such as MNIST's); `npz:FILE` (x_train,
            y_train, x_test, y_test); `dir:FOLDER` (one folder of images per class); or a name of TensorFlow
            Datasets, as `cifar10`, `svhn_cropped`, `imagenet2012`.
        seed: Keys the validation split, and which training images `train_limit` leaves.
        validation_fraction: Part of the training images, of every class alike, that is set apart; in (0, 1).
        train_limit: At most so many training images; the validation split shrinks in proportion.
        test_limit: At most so many test images, the same for every seed.
        download: Whether TensorFlow Datasets may use the network.
        data_dir: Where TensorFlow Datasets keeps its data (default: its own).
        class_names: What to call classes 0, 1, ...; default: as the data set does, or by their numbers.
        augment: What to do to training images that are held in memory: "none", "shift" (by up to 4 pixels) or
            "shift+mirror" (half of them); "auto" shifts and mirrors 32x32 colour images and leaves others, but does
            not mirror a set with "svhn" in its name. Streamed images are augmented if they vary in size; for them it
            must be "auto".

    Returns:
        The splits, with images in [0, 1].

    Raises:
        HarpError: If there is no such data set, it is damaged or out of range, or there is not one name per
            class; says what to do.
    """
    splits = _load(spec, Cuts(seed, validation_fraction, train_limit, test_limit), augment, download, data_dir)
    if not class_names:
        return splits
    _check_names(class_names, splits)
    return dataclasses.replace(splits, class_names=tuple(class_names))


def _load(spec: str, cuts: Cuts, augment: str, download: bool, data_dir: str | None) -> DataSplits:
    kind, _, place = spec.partition(":")
    if spec == "digits":
        parts = digits.load()
    elif kind == "idx":
        parts = idx.load(place)
    elif kind == "npz":
        parts = npz.load(place)
    elif kind == "dir":
        parts = folder.load(place)
    else:
        return tfds_source.load(spec, cuts, augment=augment, download=download, data_dir=data_dir)
    return split_arrays(spec, *parts, cuts, augment)


def _check_names(class_names: Sequence[str], splits: DataSplits) -> None:
    if len(class_names) != splits.num_classes:
        raise HarpError(
            f"class_names must be {splits.num_classes} names, one per class of '{splits.name}' in the order of its "
            f"labels; received {len(class_names)}: {', '.join(class_names)}."
        )
    require_class_names(class_names)
