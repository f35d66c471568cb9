import numpy as np

from harp_tf import data


def test_digits_are_the_default_and_real():
    splits = data.load()
    assert splits.name == "digits"
    assert splits.input_shape == (8, 8, 1)
    assert splits.class_names == tuple("0123456789")
    sizes = (splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples)
    assert sum(sizes) == 1797
    assert 0.19 < sizes[2] / 1797 < 0.21
    assert 0.09 < sizes[1] / (sizes[0] + sizes[1]) < 0.11
    for part in (splits.train, splits.validation, splits.test):
        images, labels = part.arrays()
        assert images.min() == 0 and images.max() == 1
        assert np.array_equal(images * 16, np.round(images * 16))
        counts = np.bincount(labels, minlength=10)
        assert counts.max() - counts.min() <= 0.1 * counts.max()


def test_no_image_is_in_two_splits_more_often_than_in_the_set():
    splits = data.load("digits")
    parts = [splits.train.arrays()[0], splits.validation.arrays()[0], splits.test.arrays()[0]]
    images = np.concatenate(parts).reshape(1797, -1)
    from sklearn.datasets import load_digits

    original = (load_digits().data / 16).astype(np.float32)
    np.testing.assert_array_equal(np.unique(images, axis=0), np.unique(original, axis=0))
    assert len(np.unique(images, axis=0)) == 1797


def test_test_images_are_the_same_for_every_seed_and_validation_images_are_not():
    one, two = data.load("digits", seed=1), data.load("digits", seed=2)
    np.testing.assert_array_equal(one.test.arrays()[0], two.test.arrays()[0])
    assert not np.array_equal(one.validation.arrays()[0], two.validation.arrays()[0])
