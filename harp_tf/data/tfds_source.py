"""Image classification sets of TensorFlow Datasets, by name."""

import difflib
from pathlib import Path

import numpy as np

from harp_tf.data.memory import split_arrays
from harp_tf.data.splits import Cuts, DataSplits
from harp_tf.data.streamed import StreamedSplit
from harp_tf.types import HarpError

MEMORY_LIMIT = 2**30  # bytes of decoded images
RESIZE = 224  # pixels, for sets whose images vary in size
TEST_FRACTION = 0.2
# The labels of ImageNet's test images were never published; everybody reports the validation images.
_TEST_SPLITS = {"imagenet2012": "validation"}


def load(name: str, cuts: Cuts, *, augment: str, download: bool, data_dir: str | None) -> DataSplits:
    """Returns the splits of a TFDS data set; `harp_tf.data.load` documents the arguments.

    Sets of one image size and up to 1 GiB are held in memory; the others are streamed, at 224x224 if their
    sizes vary. A set without a test split loses the first fifth of its training images to one. TFDS shuffles
    examples when it prepares a set, so for streamed sets, validation and limits take consecutive records
    (validation from a place keyed by the seed) and reading them stays cheap; they are not stratified.
    """
    builder = _prepared_builder(name, download, data_dir)
    image_key, label_key = _keys(name, builder)
    shape = builder.info.features[image_key].shape
    train, test = _ranges(name, builder)
    class_names = tuple(builder.info.features[label_key].names)
    num_images = sum(stop - start for _, start, stop in (train, test))
    if None not in shape and num_images * np.prod(shape) <= MEMORY_LIMIT:
        return split_arrays(name, _arrays(builder, train), _arrays(builder, test), class_names, cuts, augment)

    if augment != "auto":
        raise HarpError(
            f"augment must be auto for data set '{name}', which is streamed from its files, received {augment!r}."
        )
    if builder.info.file_format.value != "tfrecord":
        raise HarpError(
            f"Data set '{name}' is too large for memory and stored as {builder.info.file_format.value}; it "
            "can be read from TFRecord files only. Remove it and prepare it again."
        )

    def decode(record):
        example = builder.info.features.deserialize_example(record)
        return example[image_key], example[label_key]

    def streamed(*ranges):
        records = [record for one in ranges for record in _records(builder, one)]
        return StreamedSplit(records, decode, resize=RESIZE if None in shape else None)

    split, start, stop = train
    num_validation = max(1, round(cuts.validation_fraction * (stop - start)))
    num_train, num_validation = cuts.counts(stop - start - num_validation, num_validation)
    cut = start + int(np.random.default_rng(cuts.seed).integers(0, num_train + 1))
    stop = start + num_train + num_validation
    test_stop = test[2] if cuts.test_limit is None else min(test[2], test[1] + cuts.test_limit)
    return DataSplits(
        name=name,
        input_shape=(RESIZE, RESIZE, shape[2]) if None in shape else tuple(shape),
        num_classes=len(class_names),
        class_names=class_names,
        train=streamed((split, start, cut), (split, cut + num_validation, stop)),
        validation=streamed((split, cut, cut + num_validation)),
        test=streamed((test[0], test[1], test_stop)),
    )


def _prepared_builder(name: str, download: bool, data_dir: str | None):
    import tensorflow_datasets as tfds  # slow to import, and needed for these sets only

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, AssertionError, ValueError) as error:
        close = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise HarpError(
            f"Unknown data set '{name}' ({str(error).splitlines()[0]}).{hint} Expected digits, idx:DIR, "
            "npz:FILE, dir:FOLDER, or a name of TensorFlow Datasets (https://www.tensorflow.org/datasets/catalog)."
        ) from error
    if builder.is_prepared():
        return builder
    # The command `tfds build` needs Apache Beam, which TFDS does not install; this one needs nothing more.
    call = f"tfds.builder({name!r}{f', data_dir={data_dir!r}' if data_dir else ''}).download_and_prepare()"
    advice = f'Run once, with a network: python -c "import tensorflow_datasets as tfds; {call}"'
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        folder = Path(builder.data_dir_root, "downloads", "manual")
        advice += f" after its files were put into {folder} by hand ({instructions})"
    if not download:
        raise HarpError(
            f"Data set '{name}' is not in '{builder.data_path}'. {advice}; or add --download to this command."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # networks, disks and sites fail in ways of their own
        raise HarpError(
            f"Data set '{name}' could not be downloaded ({type(error).__name__}: {error}). {advice}."
        ) from error
    return builder


def _keys(name: str, builder) -> tuple[str, str]:
    """Returns the names of the image and of the label among the features."""
    import tensorflow_datasets as tfds

    keys = builder.info.supervised_keys
    if isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (builder.info.features[key] for key in keys)
        is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8 and image.shape[2] in (1, 3)
        if is_image and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise HarpError(
        f"Data set '{name}' is not one of 8-bit images with one class each (its supervised keys are {keys}). "
        "Choose an image classification set."
    )


def _ranges(name: str, builder) -> tuple[tuple, tuple]:
    """Returns (split, first, one past the last) of the training and of the test images."""
    splits = builder.info.splits
    if "train" not in splits:
        raise HarpError(f"Data set '{name}' has no split 'train', only {list(splits)}. Choose another.")
    num_train = splits["train"].num_examples
    test = _TEST_SPLITS.get(builder.name, "test")
    if test in splits:
        return ("train", 0, num_train), (test, 0, splits[test].num_examples)
    num_test = round(TEST_FRACTION * num_train)
    return ("train", num_test, num_train), ("train", 0, num_test)


def _arrays(builder, part: tuple) -> tuple[np.ndarray, np.ndarray]:
    split, start, stop = part
    images, labels = builder.as_dataset(split=f"{split}[{start}:{stop}]", as_supervised=True, batch_size=-1)
    return images.numpy(), labels.numpy()


def _records(builder, part: tuple) -> list:
    split, start, stop = part
    if start == stop:
        return []
    return builder.info.splits[f"{split}[{start}:{stop}]"].file_instructions
