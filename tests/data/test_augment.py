import numpy as np
import tensorflow as tf

from harp_tf.data import augment

IMAGES = np.random.default_rng(0).integers(1, 256, (50, 32, 32, 3), np.uint8)
KEY = tf.constant([1, 2], tf.int64)


def crop(images=IMAGES, indices=None, seed=0, epoch=0, flip=True):
    indices = np.arange(len(images)) if indices is None else indices
    draws = tf.gather(augment.draws_of_epoch(50, seed=seed, epoch=epoch), indices)
    return augment.crop_and_flip(images, draws, flip=flip).numpy()


def test_every_result_is_a_window_of_the_padded_image():
    padded = np.pad(IMAGES, [(0, 0), (4, 4), (4, 4), (0, 0)])
    shifts = set()
    flips = 0
    for image, result in zip(padded, crop(tf.constant(IMAGES))):
        found = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(result, image[top : top + 32, left : left + 32][:, :: -1 if flip else 1])
        ]
        assert len(found) == 1
        shifts.add(found[0][:2])
        flips += found[0][2]
    assert len(shifts) > 25
    assert 12 < flips < 38


def test_without_flip_nothing_is_mirrored():
    images = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, np.newaxis], (50, 32, 32, 3))
    assert np.all(np.diff(crop(tf.constant(images), flip=False)[:, 16, 4:28, 0].astype(int), axis=1) == 1)


def test_draws_follow_from_seed_epoch_and_image():
    images = tf.constant(IMAGES)
    np.testing.assert_array_equal(crop(images), crop(images))
    assert not np.array_equal(crop(images), crop(images, seed=1))
    assert not np.array_equal(crop(images), crop(images, epoch=1))
    chosen = np.array([7, 3, 40])
    np.testing.assert_array_equal(crop(tf.constant(IMAGES[chosen]), chosen), crop(images)[chosen])


def test_random_resized_crop_is_in_range_and_keyed():
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    results = [augment.random_resized_crop(image, 24, tf.constant([0, key], tf.int64)).numpy() for key in range(20)]
    for result in results:
        assert result.shape == (24, 24, 3) and result.dtype == np.float32
        assert 0 <= result.min() and result.max() <= 1
    assert len({result.tobytes() for result in results}) == 20
    np.testing.assert_array_equal(results[2], augment.random_resized_crop(image, 24, tf.constant([0, 2], tf.int64)))


def test_random_resized_crop_mirrors_about_half():
    ramp = tf.constant(np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, np.newaxis], (64, 64, 3)))
    rising = 0
    for key in range(60):
        result = augment.random_resized_crop(ramp, 16, tf.constant([key, 0], tf.int64)).numpy()[8, :, 0]
        rising += result[-1] > result[0]
    assert 15 < rising < 45


def test_center_crop_takes_the_middle():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 36:92] = 255  # the central 56 (= 64 * 224 / 256) columns
    result = augment.center_crop(tf.constant(image), 28).numpy()
    assert result.shape == (28, 28, 3) and result.dtype == np.float32
    np.testing.assert_array_equal(result, np.ones_like(result))
    outside = np.where(image == 0, 255, 0).astype(np.uint8)
    assert augment.center_crop(tf.constant(outside), 28).numpy().max() == 0


def test_tiny_images_can_be_cropped():
    image = tf.constant(np.full((1, 3, 3), 200, np.uint8))
    np.testing.assert_allclose(augment.center_crop(image, 8), 200 / 255, rtol=1e-6)
    np.testing.assert_allclose(augment.random_resized_crop(image, 8, KEY), 200 / 255, rtol=1e-6)
