"""A small convolutional network for 8x8 images."""

import keras
from keras import layers

from harp_tf.models import blocks


def cnn_digits(input_shape, num_classes: int, width: float, depth: int, seed: int) -> keras.Model:
    """A CNN for the 8x8 digits; 230,544 prunable weights at 0.8 million multiplications an image.

    Most weights sit where the image is smallest, so that adversarial training takes seconds an epoch.
    """
    kernels = blocks.Kernels(seed)
    image, x = blocks.images(input_shape)
    number = 0
    for stage, filters in enumerate(((16,), (32, 64), (128,)), start=1):
        if stage > 1:
            x = layers.MaxPooling2D(2, name=f"pool{stage - 1}")(x)
        for count in filters * depth:
            number += 1
            x = blocks.conv(x, blocks.channels(count, width), 3, kernels, f"conv{number}")
            x = blocks.batch_norm(x, f"bn{number}")
            x = layers.ReLU(name=f"relu{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(blocks.channels(256, width), kernel_initializer=kernels.he(), name="dense1")(x)
    x = layers.ReLU(name="dense1_relu")(x)
    return keras.Model(image, blocks.logits(x, num_classes, kernels), name="cnn_digits")
