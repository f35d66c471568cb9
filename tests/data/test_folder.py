import os

import numpy as np
import pytest
import tensorflow as tf

from harp_tf import data
from harp_tf.data import folder
from harp_tf.types import HarpError


def write(path, value=100, shape=(6, 5, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = tf.constant(np.full(shape, value, np.uint8))
    encode = tf.io.encode_png if path.suffix.lower() == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(image).numpy())


@pytest.fixture
def parts(tmp_path):
    """A folder with train and test; the grey value of an image is 10 * class + its number."""
    for part, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                write(tmp_path / part / name / f"{number}.png", 10 * label + number)
    return tmp_path


def test_train_and_test_folders(parts):
    splits = data.load(f"dir:{parts}")
    assert splits.class_names == ("cat", "dog") and splits.input_shape == (6, 5, 3)
    assert (splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples) == (10, 2, 6)
    images, labels = splits.test.arrays()
    values = np.round(images[:, 0, 0, 0] * 255)  # in an order by lot: the first ones are of both classes
    assert sorted(values) == [0, 1, 2, 10, 11, 12] and set(labels[:3]) == {0, 1}
    np.testing.assert_array_equal(labels, values >= 10)


def test_test_images_are_cut_where_there_are_none_and_are_the_same_for_every_seed(parts):
    """Else a model of one seed would be tested by another on images that it was trained on."""

    def values(split):
        return tuple(np.round(split.arrays()[0][:, 0, 0, 0] * 255).tolist())

    splits = [data.load(f"dir:{parts / 'train'}", seed=seed) for seed in range(8)]
    assert {tuple(one.test.arrays()[1].tolist()) for one in splits} == {(0, 1)}
    assert len({values(one.test) for one in splits}) == 1
    assert len({values(one.validation) for one in splits}) > 1


def test_test_images_stay_where_they_are_when_others_come(tmp_path):
    """Else a network would be tested on images that it has learned."""

    def sides(files):
        labels = np.repeat([0, 1], len(files))
        test = folder._test_part(labels, [tmp_path / kind / file for kind in "ab" for file in files])
        assert test[labels == 0].sum() == test[labels == 1].sum() == round(len(files) / 5)
        return dict(zip([(kind, file) for kind in "ab" for file in files], test))

    names = [f"{number}.png" for number in range(200)]
    before = sides(names)
    for more in range(1, 20):
        after = sides([*(f"new_{number}.png" for number in range(more)), *names])
        assert sum(after[file] != side for file, side in before.items()) <= 2 * (1 + more // 5)


def test_pictures_of_other_kinds_are_refused(parts):
    (parts / "train" / "cat" / "more.webp").write_bytes(b"RIFF")
    with pytest.raises(
        HarpError, match="Class folder .*cat.* holds 1 pictures that are neither PNG nor JPEG, 'more.webp'"
    ):
        data.load(f"dir:{parts}")


def test_jpeg_endings_in_capitals_and_other_files(tmp_path):
    for name in ("a", "b"):
        for file in ("1.jpg", "2.JPEG", "3.Jpg", "4.png"):
            write(tmp_path / name / file, shape=(6, 5, 3) if file != "4.png" else (6, 5, 1))
        (tmp_path / name / "notes.txt").write_text("no image")
        (tmp_path / name / ".hidden").write_text("no image")
    (tmp_path / ".git").mkdir()
    splits = data.load(f"dir:{tmp_path}")
    assert splits.class_names == ("a", "b") and splits.input_shape == (6, 5, 3)
    assert splits.train.num_examples + splits.validation.num_examples + splits.test.num_examples == 8
    np.testing.assert_allclose(splits.train.arrays()[0], 100 / 255, atol=2 / 255)


@pytest.mark.parametrize("channels, expected", [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_transparency_is_dropped(tmp_path, channels, expected):
    for name in ("a", "b"):
        for number in range(4):
            write(tmp_path / name / f"{number}.png", 100, (6, 5, channels))
    splits = data.load(f"dir:{tmp_path}")
    assert splits.input_shape == (6, 5, expected)
    np.testing.assert_allclose(splits.train.arrays()[0], 100 / 255, rtol=1e-6)


def test_grey_training_images_and_coloured_test_images(tmp_path):
    for part, shape in (("train", (6, 5, 1)), ("test", (6, 5, 3))):
        for name in ("a", "b"):
            for number in range(4):
                write(tmp_path / part / name / f"{number}.png", 100, shape)
    splits = data.load(f"dir:{tmp_path}")
    assert splits.input_shape == (6, 5, 3)
    np.testing.assert_allclose(splits.train.arrays()[0], 100 / 255, rtol=1e-6)


def test_missing_folder():
    with pytest.raises(HarpError, match="no folder '/no/such'.*train/CLASS"):
        data.load("dir:/no/such")


def test_empty_class_folder_is_named(parts):
    (parts / "train" / "emu").mkdir()
    with pytest.raises(HarpError, match="train/emu' holds 0 images"):
        data.load(f"dir:{parts}")


def test_one_class_is_not_enough(tmp_path):
    write(tmp_path / "cat" / "1.png")
    with pytest.raises(HarpError, match=r"holds 1 class folder\(s\)"):
        data.load(f"dir:{tmp_path}")


def test_test_folder_is_missing(parts):
    (parts / "test").rename(parts / "tset")
    with pytest.raises(HarpError, match="no folder 'test'"):
        data.load(f"dir:{parts}")


def test_classes_differ(parts):
    (parts / "test" / "dog").rename(parts / "test" / "fox")
    with pytest.raises(HarpError, match=r"in train are \['cat', 'dog'\], in test \['cat', 'fox'\]"):
        data.load(f"dir:{parts}")


@pytest.mark.parametrize("content", [b"", b"no image at all", "truncated"])
def test_corrupt_image_is_named(parts, content):
    path = parts / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:-30] if content == "truncated" else content)
    with pytest.raises(HarpError, match="train/dog/3.png' could not be read as an image"):
        data.load(f"dir:{parts}")


def test_sizes_differ(parts):
    write(parts / "train" / "dog" / "3.png", shape=(7, 5, 3))
    with pytest.raises(HarpError, match="dog/3.png' has 7x5 pixels .* Resize all images"):
        data.load(f"dir:{parts}")


def test_a_link_out_of_the_folder_is_refused(parts, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.png"
    write(elsewhere)
    (parts / "train" / "dog" / "x.png").symlink_to(elsewhere)
    with pytest.raises(HarpError, match="dog/x.png' is a link to .*x.png', outside of .* hard links"):
        data.load(f"dir:{parts}")


def test_a_link_within_the_folder_is_followed(parts):
    (parts / "train" / "dog" / "x.png").symlink_to("0.png")
    splits = data.load(f"dir:{parts}")
    assert splits.train.num_examples + splits.validation.num_examples == 13


def test_a_pipe_is_not_waited_for(parts):
    os.mkfifo(parts / "train" / "dog" / "x.png")
    with pytest.raises(HarpError, match="dog/x.png' is no regular file"):
        data.load(f"dir:{parts}")


@pytest.mark.parametrize("name", ["two\nlines", "\udcff"])
def test_a_class_name_that_reports_could_not_show(parts, name):
    for part in ("train", "test"):
        (parts / part / "dog").rename(parts / part / name)
    with pytest.raises(HarpError, match="a name that cannot be shown. Rename it"):
        data.load(f"dir:{parts}")
