import itertools

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.data.memory import MemorySplit, numbered_classes, split_arrays, stratified_cut
from harp_tf.data.splits import Cuts, Split
from harp_tf.types import HarpError

CUTS = Cuts(seed=0, validation_fraction=0.1, train_limit=None, test_limit=None)


def numbered_split(count=23, **options):
    """A split whose labels are the images' numbers and whose pixels all have that value."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), (count, 4, 4, 1))
    return MemorySplit(images, np.arange(count), **options)


def colour_split(count=40, **options):
    generator = np.random.default_rng(0)
    return MemorySplit(generator.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count), **options)


def take(dataset, count):
    return [(images.numpy(), labels.numpy()) for images, labels in itertools.islice(dataset, count)]


def orders(split, epochs, seed, batch_size=5):
    steps = split.steps_per_epoch(batch_size)
    labels = [labels for _, labels in take(split.training_batches(batch_size, seed=seed), epochs * steps)]
    return np.concatenate(labels).reshape(epochs, -1)


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_batches_are_one_ordered_pass_with_the_last_partial_batch():
    split = numbered_split()
    batches = take(split.batches(5), 10)
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), np.arange(23))
    for images, labels in batches:
        assert images.dtype == np.float32 and labels.dtype == np.int32
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels.astype(np.float32) / 255)
    assert isinstance(split.batches(5), tf.data.Dataset)


def test_arrays_are_the_batches():
    images, labels = numbered_split().arrays()
    assert images.dtype == np.float32 and labels.dtype == np.int32
    np.testing.assert_array_equal(images, np.concatenate([x for x, _ in take(numbered_split().batches(7), 9)]))
    np.testing.assert_array_equal(labels, np.arange(23))


def test_the_record_tells_other_images_and_another_cut():
    halves = np.repeat([0, 1], 20)

    def record(images, seed=0, labels=halves):
        part = images[:, :4, :4], labels
        return split_arrays("mine", part, part, ("a", "b"), Cuts(seed, 0.1, None, None)).record()

    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    known = record(images)
    assert {split: part["images"] for split, part in known.items()} == {"train": 36, "validation": 4, "test": 40}
    assert record(images.copy()) == known
    changed = images.copy()
    changed[3, 0, 0, 0] ^= 1
    for other in (record(changed), record(images, labels=1 - halves)):
        assert other["test"]["sha256"] != known["test"]["sha256"]
        assert other["train"] != known["train"] or other["validation"] != known["validation"]
    cut = record(images, seed=1)
    assert cut["train"] != known["train"] and cut["test"] == known["test"]


def test_float_images_are_handed_out_as_they_are():
    images = np.random.default_rng(0).random((6, 4, 4, 1), dtype=np.float32)
    batch, _ = take(MemorySplit(images, np.arange(6)).batches(6), 1)[0]
    np.testing.assert_array_equal(batch, images)


def test_training_batches_are_full_and_endless():
    split = numbered_split()
    dataset = split.training_batches(5, seed=0)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    assert dataset.element_spec[0].shape == (5, 4, 4, 1)
    assert all(len(labels) == 5 for _, labels in take(dataset, 50))
    assert split.steps_per_epoch(5) == 4


def test_an_epoch_shows_no_image_twice_and_images_stay_with_their_labels():
    for order in orders(numbered_split(), epochs=6, seed=1):
        assert len(set(order)) == len(order) == 20
    for images, labels in take(numbered_split().training_batches(5, seed=1), 8):
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels.astype(np.float32) / 255)


def test_the_order_is_keyed_by_seed_and_epoch():
    first = orders(numbered_split(), epochs=4, seed=7)
    np.testing.assert_array_equal(first, orders(numbered_split(), epochs=4, seed=7))
    assert not np.array_equal(first, orders(numbered_split(), epochs=4, seed=8))
    for one, other in itertools.combinations([*first, np.arange(20)], 2):
        assert not np.array_equal(one, other)


def test_every_image_is_as_likely_at_every_place():
    order = orders(numbered_split(10), epochs=2000, seed=0, batch_size=10)
    counts = np.array([np.bincount(place, minlength=10) for place in order.T])
    assert counts.min() > 200 - 5 * 13.4 and counts.max() < 200 + 5 * 13.4  # five standard deviations


@pytest.mark.parametrize("first_step", [1, 4, 5, 11])
@pytest.mark.parametrize("make", [numbered_split, lambda: colour_split(23, shift=True, mirror=True)])
def test_first_step_leaves_batches_out(make, first_step):
    split = make()
    all_batches = take(split.training_batches(5, seed=3), first_step + 6)
    assert_equal(all_batches[first_step:], take(split.training_batches(5, seed=3, first_step=first_step), 6))


@pytest.mark.parametrize("make", [numbered_split, lambda: colour_split(23, shift=True, mirror=True)])
def test_workers_make_their_own_rows_of_the_same_batches(make):
    split = make()
    own = [take(split.training_batches(5, seed=3, first_step=2, rows=rows), 6) for rows in (range(3), range(3, 5))]
    together = [tuple(np.concatenate(parts) for parts in zip(*pair)) for pair in zip(*own)]
    assert_equal(take(split.training_batches(5, seed=3, first_step=2), 6), together)


def test_augmentation_repeats_with_the_seed_and_changes_with_the_epoch():
    split = colour_split(shift=True, mirror=True)
    first = take(split.training_batches(20, seed=5), 4)
    assert_equal(first, take(split.training_batches(20, seed=5), 4))

    def epoch_images(batches):
        images, labels = (np.concatenate(parts) for parts in zip(*batches))
        return images[np.argsort(labels)]

    one, two = epoch_images(first[:2]), epoch_images(first[2:])
    assert one.min() >= 0 and one.max() <= 1
    assert np.mean(np.any(one != two, axis=(1, 2, 3))) > 0.9


def test_augmentation_does_not_depend_on_the_batch_size():
    split = colour_split(shift=True, mirror=True)
    small, large = ({}, {})
    for batch_size, seen in ((8, small), (20, large)):
        for images, labels in take(split.training_batches(batch_size, seed=5), 40 // batch_size):
            seen.update(zip(labels.tolist(), images))
    assert small.keys() == large.keys()
    assert all(np.array_equal(small[label], large[label]) for label in small)


def test_no_augmentation_outside_training():
    split = colour_split(shift=True, mirror=True)
    images, _ = split.arrays()
    np.testing.assert_array_equal(images, take(split.batches(40), 1)[0][0])


def test_batch_sizes_that_do_not_fit():
    with pytest.raises(HarpError, match="A batch of 24 does not fit into the 23 images"):
        numbered_split().training_batches(24, seed=0)
    with pytest.raises(HarpError, match="at least one image, received batch size 0"):
        numbered_split().steps_per_epoch(0)


def labelled(count=100, classes=5, shape=(4, 4, 1), dtype=np.uint8):
    images = np.zeros((count, *shape), dtype)
    images[:, 0, 0, 0] = np.arange(count) % 256  # tells images apart
    return images, np.arange(count) % classes


def split(train=None, test=None, name="npz:x", augmentation="auto", **cuts):
    train = labelled() if train is None else train
    test = labelled(20) if test is None else test
    options = {"seed": 0, "validation_fraction": 0.1, "train_limit": None, "test_limit": None, **cuts}
    return split_arrays(name, train, test, tuple("abcde"), Cuts(**options), augmentation)


def numbers(part):
    return set(np.round(part.arrays()[0][:, 0, 0, 0] * 255).astype(int).tolist())


def test_validation_is_cut_from_the_training_images_class_by_class():
    splits = split()
    assert isinstance(splits.train, Split)
    assert (splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples) == (
        90,
        10,
        20,
    )
    assert numbers(splits.train).isdisjoint(numbers(splits.validation))
    assert len(numbers(splits.train) | numbers(splits.validation)) == 100
    np.testing.assert_array_equal(np.bincount(splits.validation.arrays()[1]), [2] * 5)
    assert splits.input_shape == (4, 4, 1) and splits.num_classes == 5 and splits.class_names == tuple("abcde")


def test_the_seed_keys_the_validation_split_and_leaves_the_test_images_alone():
    assert numbers(split(seed=1).validation) == numbers(split(seed=1).validation)
    assert numbers(split(seed=1).validation) != numbers(split(seed=2).validation)
    assert numbers(split(seed=1, test_limit=7).test) == numbers(split(seed=2, test_limit=7).test)


def test_what_comes_class_by_class_is_mixed():
    images, labels = np.zeros((60, 4, 4, 1), np.uint8), np.repeat(np.arange(3), 20)
    images[..., 0] = np.arange(60)[:, np.newaxis, np.newaxis]
    splits = split_arrays("sorted", (images, labels), (images, labels), tuple("abc"), Cuts(0, 0.2, None, None))
    for split in (splits.train, splits.validation, splits.test):
        found, classes = split.arrays()
        assert set(classes[: len(classes) // 2]) == {0, 1, 2}
        np.testing.assert_array_equal(np.rint(255 * found[:, 0, 0, 0]) // 20, classes)
    again = split_arrays("sorted", (images, labels), (images, labels), tuple("abc"), Cuts(1, 0.2, None, None))
    np.testing.assert_array_equal(splits.test.arrays()[0], again.test.arrays()[0])
    order = np.random.default_rng(0).permutation(60)  # has an order of its own, and keeps it
    given = split_arrays(
        "mixed", (images, labels), (images[order], labels[order]), tuple("abc"), Cuts(0, 0.2, None, None)
    )
    np.testing.assert_array_equal(given.test.arrays()[1], labels[order])


def test_limits():
    splits = split(train_limit=45, test_limit=7)
    assert (splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples) == (45, 5, 7)
    assert numbers(splits.train).isdisjoint(numbers(splits.validation))
    assert split(train_limit=1000).train.num_examples == 90


@pytest.mark.parametrize(
    "cuts, message",
    [
        ({"validation_fraction": 0.0}, "validation fraction must be between 0 and 1"),
        ({"validation_fraction": 1.0}, "validation fraction must be between 0 and 1"),
        ({"train_limit": 0}, "limit of training images must be at least 1"),
        ({"test_limit": -5}, "limit of test images must be at least 1"),
    ],
)
def test_impossible_cuts(cuts, message):
    with pytest.raises(HarpError, match=message):
        split(**cuts)


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"train": (labelled()[0][:-1], labelled()[1])}, "n labels, n > 0; received images of shape"),
        ({"test": (labelled(0)[0], labelled(0)[1])}, "expected test images"),
        ({"test": labelled(20, shape=(5, 4, 1))}, "they must agree"),
        ({"test": labelled(20, dtype=np.float32)}, "they must agree"),
        ({"test": labelled(20, classes=6)}, "test labels run from 0 to 5, but its classes are 0 .. 4"),
        ({"train": (labelled()[0], labelled()[1] - 1)}, "training labels run from -1 to 3"),
        ({"train": labelled(5)}, "one training image per class; validation needs images too"),
    ],
)
def test_arrays_that_are_no_data_set(parts, message):
    with pytest.raises(HarpError, match=message):
        split(**parts)


def test_numbered_classes():
    assert numbered_classes("here", np.array([2, 1, 0, 1])) == ("0", "1", "2")
    for labels in ([1, 2, 3], [0, 1, 3], [-1, 0, 1]):
        with pytest.raises(HarpError, match=r"here: training labels must be 0 \.\. classes - 1.*3 different"):
            numbered_classes("here", np.array(labels))


def test_stratified_cut_takes_its_part_of_every_class():
    labels = np.repeat([0, 1, 2, 3], [100, 40, 3, 1])
    kept, cut = stratified_cut(labels, 0.1, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[cut], minlength=4), [10, 4, 1, 0])
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, cut])), np.arange(144))
    almost_all = np.bincount(labels[stratified_cut(labels, 0.99, seed=0)[0]], minlength=4)
    assert almost_all.min() == 1


@pytest.mark.parametrize(
    "name, shape, augmentation, shifted, mirrored",
    [
        ("cifar10", (32, 32, 3), "auto", True, True),
        ("svhn_cropped", (32, 32, 3), "auto", True, False),
        ("npz:data/SVHN.npz", (32, 32, 3), "auto", True, False),
        ("mnist", (28, 28, 1), "auto", False, False),
        ("npz:grey.npz", (32, 32, 1), "auto", False, False),
        ("npz:signs.npz", (32, 32, 3), "none", False, False),
        ("npz:signs.npz", (32, 32, 3), "shift", True, False),
        ("svhn_cropped", (32, 32, 3), "shift+mirror", True, True),
        ("mnist", (28, 28, 1), "shift", True, False),
    ],
)
def test_which_sets_are_augmented(name, shape, augmentation, shifted, mirrored):
    # Images that darken to the right: unchanged, shifted (darkening still) or mirrored (brightening).
    ramp = np.broadcast_to(np.linspace(250, 60, shape[1]).astype(np.uint8)[:, np.newaxis], shape)
    train = np.stack([ramp] * 100), np.arange(100) % 5
    images, _ = take(
        split(train, (train[0][:5], train[1][:5]), name, augmentation=augmentation).train.training_batches(90, seed=0),
        1,
    )[0]
    middle = images[:, 16, 8:24, 0]
    brightening = np.mean(middle[:, -1] > middle[:, 0])
    unchanged = np.mean(np.all(np.isclose(images, ramp / np.float32(255)), axis=(1, 2, 3)))
    assert (unchanged < 0.2) if shifted else (unchanged == 1)
    assert (0.3 < brightening < 0.7) if mirrored else (brightening == 0)
