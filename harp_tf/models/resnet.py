"""Residual networks: ResNet-18 in its 32x32 form and ResNet-50 for 224x224 images."""

import keras
from keras import layers

from harp_tf.models import blocks


def resnet18(input_shape, num_classes: int, width: float, depth: int, seed: int) -> keras.Model:
    """ResNet-18 for 32x32 images: 3x3 stem, no pooling in front; 11.2 M prunable weights.

    Reference: He et al., CVPR 2016, in the form common for CIFAR-10.
    """
    kernels = blocks.Kernels(seed)
    image, x = blocks.images(input_shape)
    x = _conv_bn_relu(x, blocks.channels(64, width), 3, kernels, "stem")
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in range(1, 2 * depth + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(x, blocks.channels(filters, width), strides, kernels, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, blocks.logits(x, num_classes, kernels), name="resnet18")


def resnet50(input_shape, num_classes: int, width: float, depth: int, seed: int) -> keras.Model:
    """ResNet-50 for 224x224 images, "v1.5": a bottleneck halves the image in its 3x3 convolution.

    25.5 M prunable weights for 1000 classes. Reference: He et al., CVPR 2016.
    """
    kernels = blocks.Kernels(seed)
    image, x = blocks.images(input_shape)
    x = _conv_bn_relu(x, blocks.channels(64, width), 7, kernels, "stem", strides=2)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, (filters, count) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3)), start=1):
        for block in range(1, count * depth + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _bottleneck(x, blocks.channels(filters, width), strides, kernels, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, blocks.logits(x, num_classes, kernels), name="resnet50")


def _basic_block(x, filters: int, strides: int, kernels: blocks.Kernels, name: str):
    shortcut = _shortcut(x, filters, strides, kernels, name)
    x = _conv_bn_relu(x, filters, 3, kernels, name, number="1", strides=strides)
    x = _conv_bn(x, filters, 3, kernels, name, number="2")
    return _add_relu(x, shortcut, name)


def _bottleneck(x, filters: int, strides: int, kernels: blocks.Kernels, name: str):
    shortcut = _shortcut(x, 4 * filters, strides, kernels, name)
    x = _conv_bn_relu(x, filters, 1, kernels, name, number="1")
    x = _conv_bn_relu(x, filters, 3, kernels, name, number="2", strides=strides)
    x = _conv_bn(x, 4 * filters, 1, kernels, name, number="3")
    return _add_relu(x, shortcut, name)


def _shortcut(x, filters: int, strides: int, kernels: blocks.Kernels, name: str):
    if strides == 1 and x.shape[-1] == filters:
        return x
    return _conv_bn(x, filters, 1, kernels, f"{name}_shortcut", strides=strides)


def _add_relu(x, shortcut, name: str):
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([shortcut, x]))


def _conv_bn(x, filters: int, size: int, kernels: blocks.Kernels, name: str, number: str = "", strides: int = 1):
    x = blocks.conv(x, filters, size, kernels, f"{name}_conv{number}", strides)
    return blocks.batch_norm(x, f"{name}_bn{number}")


def _conv_bn_relu(x, filters: int, size: int, kernels: blocks.Kernels, name: str, number: str = "", strides: int = 1):
    x = _conv_bn(x, filters, size, kernels, name, number, strides)
    return layers.ReLU(name=f"{name}_relu{number}")(x)
