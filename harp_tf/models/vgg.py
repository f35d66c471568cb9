"""VGG networks: the 32x32 form of VGG-16 with batch normalisation, and a small one for 28x28 images."""

import keras
from keras import layers

from harp_tf.models import blocks

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG28_STAGES = ((16,), (32,), (64, 64), (128, 128))


def vgg16_bn(input_shape, num_classes: int, width: float, depth: int, seed: int) -> keras.Model:
    """VGG-16 for 32x32 images: 13 convolutions, five poolings, one dense layer; 14.7 M prunable weights.

    Reference: Simonyan & Zisserman, ICLR 2015, in the form common for CIFAR-10.
    """
    kernels = blocks.Kernels(seed)
    image, x = blocks.images(input_shape)
    x = _convolutions(x, VGG16_STAGES, width, depth, kernels, pool_last=True)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, blocks.logits(x, num_classes, kernels), name="vgg16_bn")


def vgg28(input_shape, num_classes: int, width: float, depth: int, seed: int) -> keras.Model:
    """A small VGG for 28x28 images; 429,968 prunable weights for one channel and ten classes.

    Convolutions 16-M-32-M-64-64-M-128-128 (M: 2x2 max pooling), dense 128, logits.
    """
    kernels = blocks.Kernels(seed)
    image, x = blocks.images(input_shape)
    x = _convolutions(x, VGG28_STAGES, width, depth, kernels, pool_last=False)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(blocks.channels(128, width), kernel_initializer=kernels.he(), name="dense1")(x)
    x = layers.ReLU(name="dense1_relu")(x)
    return keras.Model(image, blocks.logits(x, num_classes, kernels), name="vgg28")


def _convolutions(x, stages, width: float, depth: int, kernels: blocks.Kernels, pool_last: bool):
    number = 0
    for stage, filters in enumerate(stages, start=1):
        for count in filters * depth:
            number += 1
            x = blocks.conv(x, blocks.channels(count, width), 3, kernels, f"conv{number}")
            x = blocks.batch_norm(x, f"bn{number}")
            x = layers.ReLU(name=f"relu{number}")(x)
        if stage < len(stages) or pool_last:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    return x
