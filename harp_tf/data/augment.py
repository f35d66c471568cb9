"""Random changes of training images, stateless: each follows from (seed, epoch, image) alone."""

import tensorflow as tf

PADDING = 4
_EVALUATION_CROP = 224 / 256


def draws_of_epoch(population: int, *, seed, epoch):
    """The random numbers that `crop_and_flip` needs for a data set, once an epoch: cheaper than once a batch.

    Args:
        population: Number of images in the data set.
        seed: Integer that keys the draws.
        epoch: Integer that keys the draws.

    Returns:
        int32 [population, 3].
    """
    return tf.random.stateless_uniform(
        [population, 3],
        seed=tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)]),
        maxval=2**31 - 1,
        dtype=tf.int32,
    )


def crop_and_flip(images, draws, *, flip: bool):
    """Shifts every image by up to 4 pixels, filling with black, and mirrors half of them.

    Args:
        images: [batch, H, W, C], any dtype.
        draws: int32 [batch, 3], the rows of `draws_of_epoch` that belong to these images.
        flip: Whether to mirror at all.

    Returns:
        A tensor like `images`.
    """
    height, width = images.shape[1], images.shape[2]
    padded = tf.pad(images, [[0, 0], [PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    rows = draws[:, :1] % (2 * PADDING + 1) + tf.range(height)
    columns = draws[:, 1:2] % (2 * PADDING + 1) + tf.range(width)
    if flip:
        columns = tf.where(draws[:, 2:] % 2 == 1, columns[:, ::-1], columns)
    cropped = tf.gather(tf.gather(padded, rows, batch_dims=1, axis=1), columns, batch_dims=1, axis=2)
    return tf.ensure_shape(cropped, images.shape)


def random_resized_crop(image, size: int, seed):
    """Cuts a random 8 to 100 % of the image's area, resizes it to a square and mirrors it half of the time.

    Args:
        image: uint8 [H, W, C].
        size: Height and width of the result in pixels.
        seed: int64 [2], keys the draws.

    Returns:
        float32 [size, size, C] in [0, 1].

    Reference:
        Szegedy et al., "Going deeper with convolutions", CVPR 2015: the usual augmentation for ImageNet.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        [[[0.0, 0.0, 1.0, 1.0]]],
        seed=seed,
        min_object_covered=0.0,
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
    )
    resized = _resize(tf.slice(image, begin, extent), size)
    flip = tf.random.stateless_uniform([], seed=tf.random.experimental.stateless_fold_in(seed, 1)) < 0.5
    return tf.cond(flip, lambda: tf.reverse(resized, axis=[1]), lambda: resized)


def center_crop(image, size: int):
    """Cuts the central square, 224/256 of the shorter side, and resizes it: usual for evaluating ImageNet.

    Args:
        image: uint8 [H, W, C].
        size: Height and width of the result in pixels.

    Returns:
        float32 [size, size, C] in [0, 1].
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(tf.round(_EVALUATION_CROP * shorter), tf.int32), 1)
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(image[top : top + side, left : left + side], size)


def _resize(image, size: int):
    # Bilinear interpolation stays within the range of the pixels it mixes; clip what rounding adds.
    return tf.clip_by_value(tf.image.resize(image, [size, size]) / 255.0, 0.0, 1.0)
