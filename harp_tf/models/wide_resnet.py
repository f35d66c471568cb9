"""Wide residual networks for 32x32 images."""

import keras
from keras import layers

from harp_tf.models import blocks


def wrn_28_4(input_shape, num_classes: int, width: float, depth: int, seed: int) -> keras.Model:
    """WideResNet-28-4: pre-activated residual blocks, widening factor 4; 5.8 M prunable weights.

    Reference: Zagoruyko & Komodakis, BMVC 2016.
    """
    kernels = blocks.Kernels(seed)
    image, x = blocks.images(input_shape)
    x = blocks.conv(x, blocks.channels(16, width), 3, kernels, "stem_conv")
    for stage, filters in enumerate((64, 128, 256), start=1):
        for block in range(1, 4 * depth + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(x, blocks.channels(filters, width), strides, kernels, f"stage{stage}_block{block}")
    x = _bn_relu(x, "head", "")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, blocks.logits(x, num_classes, kernels), name="wrn_28_4")


def _block(x, filters: int, strides: int, kernels: blocks.Kernels, name: str):
    activated = _bn_relu(x, name, "1")
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = blocks.conv(activated, filters, 1, kernels, f"{name}_shortcut_conv", strides)
    x = blocks.conv(activated, filters, 3, kernels, f"{name}_conv1", strides)
    x = _bn_relu(x, name, "2")
    x = blocks.conv(x, filters, 3, kernels, f"{name}_conv2")
    return layers.Add(name=f"{name}_add")([shortcut, x])


def _bn_relu(x, name: str, number: str):
    return layers.ReLU(name=f"{name}_relu{number}")(blocks.batch_norm(x, f"{name}_bn{number}"))
