import zipfile

import numpy as np
import pytest

from harp_tf import data
from harp_tf.types import HarpError


def arrays(**replaced):
    generator = np.random.default_rng(0)
    contents = {
        "x_train": generator.integers(0, 256, (30, 6, 5, 3), np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": generator.integers(0, 256, (9, 6, 5, 3), np.uint8),
        "y_test": np.arange(9) % 3,
    }
    contents.update(replaced)
    return {name: values for name, values in contents.items() if values is not None}


def load(folder, **replaced):
    path = folder / "data.npz"
    np.savez(path, **arrays(**replaced))
    return data.load(f"npz:{path}")


def test_bytes(tmp_path):
    splits = load(tmp_path)
    assert splits.input_shape == (6, 5, 3) and splits.class_names == ("0", "1", "2")
    assert (splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples) == (27, 3, 9)
    np.testing.assert_array_equal(splits.test.arrays()[0], arrays()["x_test"].astype(np.float32) / 255)


def test_names_of_the_classes(tmp_path):
    load(tmp_path)
    spec = f"npz:{tmp_path / 'data.npz'}"
    assert data.load(spec, class_names=["cat", "hot dog", "Kälte"]).class_names == ("cat", "hot dog", "Kälte")
    for names, received in (("ab", "2: a, b"), ("abcd", "4: a")):
        with pytest.raises(HarpError, match=f"3 names, one per class.*received {received}"):
            data.load(spec, class_names=list(names))
    for name in ("two\nlines", " ", "a"):
        with pytest.raises(HarpError, match="different printable texts"):
            data.load(spec, class_names=["a", "b", name])


def test_how_training_images_are_augmented(tmp_path):
    load(tmp_path)
    spec = f"npz:{tmp_path / 'data.npz'}"
    batches = {
        how: next(data.load(spec, augment=how).train.training_batches(27, seed=0).as_numpy_iterator())[0]
        for how in ("auto", "none", "shift", "shift+mirror")
    }
    np.testing.assert_array_equal(batches["auto"], batches["none"])
    assert not np.array_equal(batches["shift"], batches["none"])
    assert not np.array_equal(batches["shift"], batches["shift+mirror"])
    with pytest.raises(HarpError, match="augment must be one of auto, none, shift, shift\\+mirror, received 'mirror'"):
        data.load(spec, augment="mirror")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats(tmp_path, dtype):
    x_train, x_test = (arrays()[name].astype(dtype) / 255 for name in ("x_train", "x_test"))
    images, _ = load(tmp_path, x_train=x_train, x_test=x_test).test.arrays()
    np.testing.assert_array_equal(images, x_test.astype(np.float32))


def test_grey_images_without_channel_and_labels_in_a_column(tmp_path):
    x_train, x_test = (arrays()[name][..., 0] for name in ("x_train", "x_test"))
    splits = load(tmp_path, x_train=x_train, x_test=x_test, y_train=arrays()["y_train"][:, np.newaxis])
    assert splits.input_shape == (6, 5, 1)


X = np.zeros((30, 6, 5, 3))


@pytest.mark.parametrize(
    "replaced, message",
    [
        ({"y_test": None}, r"\['y_test'\] is missing"),
        (
            {"x_train": arrays()["x_train"].astype(np.float32)},
            r"x_train runs from 0 to 255.*Divide them by 255",
        ),
        ({"x_test": np.full((9, 6, 5, 3), -0.5)}, r"x_test runs from -0.5 to -0.5"),
        ({"x_train": np.full((30, 6, 5, 3), np.nan)}, "float images must be in"),
        ({"x_train": arrays()["x_train"].astype(np.int64)}, "x_train is int64; store images as uint8"),
        ({"x_train": np.zeros((30, 90), np.uint8)}, r"expected x_train of shape .* received \(30, 90\)"),
        ({"x_train": np.zeros((30, 6, 5, 3), np.float32)}, "they must agree"),
        ({"y_train": np.arange(30) % 3 - 1}, "y_train contains -1"),
        ({"y_train": np.arange(30) % 3 + 1}, "from 1 to 3. Number the classes from 0"),
        ({"y_train": np.arange(30) % 3 * 2}, "3 different labels from 0 to 4"),
        ({"y_test": np.arange(9)}, "test labels run from 0 to 8, but its classes are 0 .. 2"),
        ({"y_train": (np.arange(30) % 3).astype(np.float32)}, "y_train is float32; labels must be integers"),
        ({"y_train": np.eye(3, dtype=np.int64)[np.arange(30) % 3]}, "one-hot"),
        ({"y_train": np.zeros(30, np.int64), "y_test": np.zeros(9, np.int64)}, "has 1 class"),
        ({"y_train": np.arange(29) % 3}, "expected training images"),
        ({"y_train": np.array([None] * 30)}, "could not be read as an .npz archive of plain arrays"),
    ],
)
def test_unusable_arrays(tmp_path, replaced, message):
    with pytest.raises(HarpError, match=message):
        load(tmp_path, **replaced)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(HarpError, match="could not be read as an .npz archive"):
        data.load(f"npz:{path}")


def test_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "data.npy", np.zeros(3))
    with pytest.raises(HarpError, match="could not be read as an .npz archive"):
        data.load(f"npz:{tmp_path / 'data.npy'}")


def test_missing_file():
    with pytest.raises(HarpError, match="There is no file '/no/such.npz'"):
        data.load("npz:/no/such.npz")


def test_a_member_without_an_ending_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
        for name in arrays():
            file.writestr(name, b"bytes")
    with pytest.raises(HarpError, match="is missing"):
        data.load(f"npz:{tmp_path / 'data.npz'}")


def test_a_decompression_bomb_is_not_read(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as file:
        file.getinfo("x_train.npy").file_size = 2**31  # the directory at the end of the file says so
        file.writestr("more", b"")
    with pytest.raises(HarpError, match="announces 2,147,4.* bytes and has"):
        data.load(f"npz:{tmp_path / 'data.npz'}")
