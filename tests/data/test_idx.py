import gzip
from pathlib import Path

import numpy as np
import pytest

from harp_tf import data
from harp_tf.types import HarpError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def idx(values):
    """Returns the bytes of an IDX file, written from its specification."""
    values = np.asarray(values, np.uint8)
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.tobytes()


def write(folder, compress=False, **replaced):
    generator = np.random.default_rng(0)
    files = {
        "train-images-idx3-ubyte": idx(generator.integers(0, 256, (40, 6, 5))),
        "train-labels-idx1-ubyte": idx(np.arange(40) % 4),
        "t10k-images-idx3-ubyte": idx(generator.integers(0, 256, (12, 6, 5))),
        "t10k-labels-idx1-ubyte": idx(np.arange(12) % 4),
    }
    files.update({name.replace("_", "-"): content for name, content in replaced.items()})
    for name, content in files.items():
        if content is not None:
            path = folder / (name + ".gz" if compress else name)
            path.write_bytes(gzip.compress(content) if compress else content)
    return f"idx:{folder}"


@pytest.mark.parametrize("compress", [False, True])
def test_files_are_read(tmp_path, compress):
    splits = data.load(write(tmp_path, compress))
    assert splits.input_shape == (6, 5, 1)
    assert splits.class_names == ("0", "1", "2", "3")
    assert (splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples) == (
        36,
        4,
        12,
    )
    generator = np.random.default_rng(0)
    generator.integers(0, 256, (40, 6, 5))
    expected = generator.integers(0, 256, (12, 6, 5)).astype(np.float32) / 255
    images, labels = splits.test.arrays()
    np.testing.assert_array_equal(images[..., 0], expected)
    np.testing.assert_array_equal(labels, np.arange(12) % 4)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_fashion_mnist():
    splits = data.load(f"idx:{FASHION_MNIST}", train_limit=10240, test_limit=1000)
    assert splits.input_shape == (28, 28, 1) and splits.num_classes == 10
    assert (splits.train.num_examples, splits.validation.num_examples) == (10240, 1138)
    images, labels = splits.test.arrays()
    assert len(images) == 1000 and images.max() == 1 and 0.2 < images.mean() < 0.4
    assert np.bincount(labels).min() > 60


def test_missing_folder_says_where_to_get_the_data():
    with pytest.raises(HarpError, match="apt-get install dataset-fashion-mnist.*fashion_mnist with --download"):
        data.load("idx:/no/such/folder")


@pytest.mark.parametrize(
    "replaced, message",
    [
        ({"t10k_labels_idx1_ubyte": None}, "no file 't10k-labels-idx1-ubyte' or"),
        ({"train_images_idx3_ubyte": b"\x00\x00"}, "not an IDX file"),
        ({"train_images_idx3_ubyte": idx(np.zeros(7))}, r"with 3 dimension\(s\)"),
        (
            {"train_images_idx3_ubyte": idx(np.zeros((40, 6, 5)))[:-1]},
            r"announces \[40, 6, 5\] .* holds 1199",
        ),
        ({"train_labels_idx1_ubyte": idx(np.zeros(39))}, "expected training images"),
        ({"train_labels_idx1_ubyte": idx(np.arange(40) % 4 + 1)}, "from 1 to 4"),
        ({"t10k_labels_idx1_ubyte": idx(np.arange(12))}, "test labels run from 0 to 11"),
    ],
)
def test_damaged_files(tmp_path, replaced, message):
    with pytest.raises(HarpError, match=message):
        data.load(write(tmp_path, **replaced))


def test_damaged_compression(tmp_path):
    spec = write(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(HarpError, match="train-images-idx3-ubyte.gz' could not be read"):
        data.load(spec)
    path.write_bytes(b"no gzip")
    with pytest.raises(HarpError, match="train-images-idx3-ubyte.gz' could not be read"):
        data.load(spec)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(2**31, 2**31, 2**31), (2**32 - 1, 2**32 - 1, 2**32 - 1), (2**30, 1, 1), (0, 6, 5)])
def test_sizes_that_the_file_cannot_have_are_not_allocated(tmp_path, compress, shape):
    content = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in shape) + bytes(30)
    spec = write(tmp_path, compress, train_images_idx3_ubyte=content)
    with pytest.raises(HarpError, match=r"announces .* and holds"):
        data.load(spec)


def test_more_than_announced(tmp_path):
    with pytest.raises(HarpError, match="holds more than 1200: it is cut off or damaged"):
        data.load(write(tmp_path, compress=True, train_images_idx3_ubyte=idx(np.zeros((40, 6, 5))) + bytes(9)))


def test_a_home_that_does_not_exist():
    with pytest.raises(HarpError, match="There is no folder '~no_such_user/x'"):
        data.load("idx:~no_such_user/x")
