"""TFDS sets, from tiny ones prepared on the spot: the real ones need a network."""

import shutil
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from harp_tf import data
from harp_tf.data import streamed, tfds_source
from harp_tf.types import HarpError


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images whose pixels hold their number: 0, 1, 2, ... for training, 200, 201, ... for testing."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE: tuple = (6, 5, 3)
    COUNTS = (("train", 50), ("test", 12))

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "dog"])
        features = {"image": tfds.features.Image(shape=self.SHAPE), "label": label}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name, count) for name, count in self.COUNTS}

    def _generate_examples(self, name, count):
        for number in range(count):
            height = self.SHAPE[0] or 20 + number % 7
            width = self.SHAPE[1] or 30 + number % 5
            value = number + (200 if name == "test" else 0)
            yield number, {"image": np.full((height, width, 3), value, np.uint8), "label": number % 2}


class HarpOneSize(_Builder):
    pass


class HarpManySizes(_Builder):
    SHAPE = (None, None, 3)


class HarpTrainOnly(_Builder):
    COUNTS = (("train", 50),)


class HarpTestOnly(_Builder):
    COUNTS = (("test", 50),)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Where the sets above are prepared: in several files, as large sets are."""
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (HarpOneSize, HarpManySizes, HarpTrainOnly, HarpTestOnly):
        config = tfds.download.DownloadConfig(num_shards=3)
        prepared = builder(data_dir=folder)
        prepared.download_and_prepare(download_config=config)
        assert all(split.num_shards == 3 for split in prepared.info.splits.values())
    return str(folder)


def load(name, data_dir, **options):
    return data.load(name, data_dir=data_dir, **options)


def sizes(splits):
    return splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples


def values(batches):
    """Returns the pixel values of all images, which are their numbers."""
    values = [np.round(images.numpy()[:, 0, 0, 0] * 255).astype(int) for images, _ in batches]
    return np.concatenate(values).tolist()


def take(dataset, count):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(count)]


def test_a_small_set_is_held_in_memory(data_dir):
    splits = load("harp_one_size", data_dir)
    assert splits.name == "harp_one_size"
    assert splits.class_names == ("cat", "dog") and splits.input_shape == (6, 5, 3)
    assert sizes(splits) == (46, 4, 12)
    images, labels = splits.test.arrays()
    numbers = np.round(images[:, 0, 0, 0] * 255).astype(int)
    assert sorted(numbers) == list(range(200, 212))
    np.testing.assert_array_equal(labels, numbers % 2)


def test_a_large_set_is_streamed_with_the_same_images(data_dir, monkeypatch):
    in_memory = load("harp_one_size", data_dir)
    monkeypatch.setattr(tfds_source, "MEMORY_LIMIT", 0)
    splits = load("harp_one_size", data_dir)
    assert isinstance(splits.train, streamed.StreamedSplit)
    assert splits.input_shape == (6, 5, 3)
    assert sorted(values(splits.test.batches(5))) == sorted(values(in_memory.test.batches(5)))
    images, labels = next(iter(splits.test.batches(5)))
    assert images.dtype == "float32" and labels.dtype == "int32"
    with pytest.raises(HarpError, match="read from files as needed"):
        splits.test.arrays()


def test_streamed_images_are_augmented_by_their_size_alone(data_dir):
    load("harp_one_size", data_dir, augment="shift")
    with pytest.raises(HarpError, match="augment must be auto for data set 'harp_many_sizes'.*received 'shift'"):
        load("harp_many_sizes", data_dir, augment="shift")


@pytest.fixture
def streams(data_dir):
    return load("harp_many_sizes", data_dir)


def test_the_record_of_streamed_splits_tells_other_files_and_another_cut(streams, data_dir, tmp_path):
    known = streams.record()
    assert [part["images"] for part in known.values()] == [45, 5, 12]
    assert load("harp_many_sizes", data_dir).record() == known
    cut = load("harp_many_sizes", data_dir, seed=1).record()
    assert cut["validation"]["sha256"] != known["validation"]["sha256"] and cut["test"] == known["test"]
    moved = shutil.copytree(data_dir, tmp_path / "moved")
    again = load("harp_many_sizes", str(moved))
    assert again.record() == known
    for file in moved.glob("harp_many_sizes/**/*test*tfrecord*"):
        with open(file, "ab") as records:
            records.write(b"more")
    changed = again.record()
    assert changed["test"]["sha256"] != known["test"]["sha256"] and changed["train"] == known["train"]


def test_streamed_splits_do_not_overlap(streams, data_dir):
    assert streams.input_shape == (224, 224, 3)
    assert sizes(streams) == (45, 5, 12)
    train, validation = values(streams.train.batches(8)), values(streams.validation.batches(8))
    assert sorted(train + validation) == list(range(50))
    assert sorted(values(streams.test.batches(8))) == list(range(200, 212))
    cuts = {tuple(values(load("harp_many_sizes", data_dir, seed=seed).validation.batches(8))) for seed in range(5)}
    assert len(cuts) > 1


def test_streamed_batches_are_in_order_and_complete(streams):
    batches = take(streams.train.batches(20), 10)
    assert [images.shape for images, _ in batches] == [(20, 224, 224, 3)] * 2 + [(5, 224, 224, 3)]
    again = take(streams.train.batches(20), 10)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(batches, again))
    for images, labels in batches:
        assert images.min() >= 0 and images.max() <= 1
        np.testing.assert_array_equal(labels, np.round(images[:, 0, 0, 0] * 255) % 2)


def test_streamed_training_is_endless_and_keyed_by_seed_and_epoch(streams):
    numbers = values(streams.train.training_batches(10, seed=3).take(12))
    epochs = np.reshape(numbers, (3, 40))  # 4 steps of 10 out of 45 images
    assert all(len(set(epoch)) == 40 for epoch in epochs.tolist())
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    assert values(streams.train.training_batches(10, seed=3).take(12)) == numbers
    assert values(streams.train.training_batches(10, seed=4).take(12)) != numbers


def test_streamed_order_mixes_the_files(data_dir, monkeypatch):
    monkeypatch.setattr(tfds_source, "MEMORY_LIMIT", 0)
    train = load("harp_one_size", data_dir).train
    file_order = values(train.batches(46))
    place = {number: position for position, number in enumerate(file_order)}
    order = [place[number] for number in values(train.training_batches(45, seed=0).take(1))]
    assert np.mean(np.diff(order) == 1) < 0.2


@pytest.mark.parametrize("first_step", [1, 4, 6])
def test_streamed_training_starts_anywhere(data_dir, monkeypatch, first_step):
    monkeypatch.setattr(streamed, "WINDOW", 16)  # several windows in an epoch
    train = load("harp_many_sizes", data_dir).train
    expected = take(train.training_batches(10, seed=3), first_step + 3)[first_step:]
    received = take(train.training_batches(10, seed=3, first_step=first_step), 3)
    for one, other in zip(expected, received, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_workers_decode_their_own_rows_only(data_dir, monkeypatch):
    monkeypatch.setattr(streamed, "WINDOW", 16)
    train = load("harp_many_sizes", data_dir).train
    decode, decoded = train._decode, []

    def counted(record):
        image, label = decode(record)
        with tf.control_dependencies([tf.numpy_function(lambda: decoded.append(1), [], [])]):
            return tf.identity(image), label

    train._decode = counted

    def made(steps, **settings):
        decoded.clear()
        # 14 of the 45 images of an epoch fill no batch of 31, but would fill batches of own rows.
        found = take(train.training_batches(31, seed=3, first_step=1, **settings), steps)
        return found, len(decoded)

    whole, _ = made(2)
    first, of_first = made(2, rows=range(4))
    second, _ = made(2, rows=range(4, 31))
    assert of_first <= 4 * 8  # with what is prepared ahead of time, and not 31 a step
    for batch, one, other in zip(whole, first, second, strict=True):
        for images, own, others in zip(batch, one, other, strict=True):
            np.testing.assert_array_equal(images, np.concatenate([own, others]))


def test_streamed_limits(data_dir):
    splits = load("harp_many_sizes", data_dir, train_limit=18, test_limit=5)
    assert sizes(splits) == (18, 2, 5)
    assert len(set(values(splits.train.batches(8)) + values(splits.validation.batches(8)))) == 20
    assert len(values(splits.test.batches(8))) == 5


def test_batch_larger_than_the_split(streams):
    with pytest.raises(HarpError, match="A batch of 46 does not fit into the 45 images"):
        streams.train.training_batches(46, seed=0)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_without_a_test_split_a_fifth_is_set_apart(data_dir, monkeypatch, limit):
    monkeypatch.setattr(tfds_source, "MEMORY_LIMIT", limit)
    splits = load("harp_train_only", data_dir)
    assert sizes(splits) == (36, 4, 10)
    parts = [values(part.batches(8)) for part in (splits.train, splits.validation, splits.test)]
    assert sorted(sum(parts, [])) == list(range(50))


def test_without_training_images(data_dir):
    with pytest.raises(HarpError, match=r"has no split 'train', only \['test'\]"):
        load("harp_test_only", data_dir)


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped", "mnist", "imagenet2012", "imagenet2012:5.1.0"])
def test_missing_set_says_at_once_what_to_run(tmp_path, name):
    start = time.monotonic()
    with pytest.raises(HarpError) as error:
        load(name, str(tmp_path))
    assert time.monotonic() - start < 20
    assert f"tfds.builder('{name}', data_dir='{tmp_path}').download_and_prepare()" in str(error.value)
    assert "--download" in str(error.value)
    assert ("ILSVRC2012_img_train.tar" in str(error.value)) == name.startswith("imagenet")


def test_failed_download(tmp_path, monkeypatch):
    def no_network(self, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    with pytest.raises(HarpError, match=r"could not be downloaded \(ConnectionError: no route to host\)"):
        load("cifar10", str(tmp_path), download=True)


def test_download_is_only_tried_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lambda self: pytest.fail("network"))
    with pytest.raises(HarpError, match="is not in"):
        load("cifar10", str(tmp_path))


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifar1", r"Unknown data set 'cifar1' .* Did you mean cifar10 or .* Expected digits, idx:DIR"),
        ("no such thing", "Unknown data set 'no such thing' .* Expected digits, idx:DIR"),
        ("zip:file.zip", "Unknown data set 'zip:file.zip'"),
        ("", "Unknown data set ''"),
        (
            "cifar10:9.9.9",
            "Unknown data set 'cifar10:9.9.9' .*cannot be loaded at version 9.9.9, only: 3.0.2",
        ),
        ("cifar10/no_such_config", "BuilderConfig no_such_config not found"),
    ],
)
def test_unknown_names(tmp_path, name, message):
    with pytest.raises(HarpError, match=message):
        load(name, str(tmp_path))


@pytest.mark.parametrize("name", ["coco", "iris"])
def test_sets_that_are_no_image_classification(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda self: True)
    with pytest.raises(HarpError, match=f"'{name}' is not one of 8-bit images with one class each"):
        load(name, str(tmp_path))


def test_other_file_formats_cannot_be_streamed(tmp_path, monkeypatch):
    builder = HarpManySizes(data_dir=tmp_path, file_format="riegeli")
    monkeypatch.setattr(tfds_source, "_prepared_builder", lambda *_: builder)
    monkeypatch.setattr(tfds_source, "_ranges", lambda *_: (("train", 0, 50), ("test", 0, 12)))
    with pytest.raises(HarpError, match="stored as riegeli; it can be read from TFRecord files only"):
        load("harp_many_sizes", str(tmp_path))
