"""A MobileNet made of the operators that XNNPACK can run sparse on ARM."""

import keras
from keras import layers

from harp_tf.models import blocks
from harp_tf.types import HarpError

# Channels of a stage, and the stride of its first block.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


def mobile_sparse(input_shape, num_classes: int, width: float, depth: int, seed: int) -> keras.Model:
    """A residual MobileNet that runs faster on ARM the more of its weights are zero; 541,184 prunable weights.

    Only 3x3 depthwise and 1x1 convolutions, additions and ReLU stand between the first convolution, with stride 2
    and three input channels, and the global average. Whatever halves the image is padded by its own layer, one pixel
    on each side: 'same' padding with stride 2 is another one. `harp_tf.deploy.arm_sparse_report` names the rules.

    A grey image becomes three equal channels first. The first convolution halves the image already: it suits images
    of 64 pixels and more, and smaller ones enlarged before they come here.

    Reference: Elsen et al., "Fast Sparse ConvNets", CVPR 2020; Howard et al., "MobileNets", 2017.
    """
    if input_shape[-1] not in (1, 3):
        raise HarpError(
            f"Model 'mobile_sparse' needs colour images (3 channels) or grey ones (1), received {input_shape[-1]} "
            "channels. Choose another model, or select the channels before."
        )
    kernels = blocks.Kernels(seed)
    image, x = blocks.images(input_shape)
    if input_shape[-1] == 1:
        x = layers.Concatenate(name="grey")([x, x, x])
    x = layers.ZeroPadding2D(1, name="stem_pad")(x)
    x = layers.Conv2D(
        blocks.channels(32, width), 3, strides=2, use_bias=False, kernel_initializer=kernels.he(), name="stem_conv"
    )(x)
    x = _bn_relu(x, "stem", "")
    for stage, (filters, strides) in enumerate(STAGES, start=1):
        for block in range(1, 2 * depth + 1):
            x = _block(
                x, blocks.channels(filters, width), strides if block == 1 else 1, kernels, f"stage{stage}_block{block}"
            )
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, blocks.logits(x, num_classes, kernels), name="mobile_sparse")


def _block(x, filters: int, strides: int, kernels: blocks.Kernels, name: str):
    """Depthwise 3x3, then 1x1; the input is added where it has the shape of the output."""
    shortcut = x
    if strides == 2:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="valid" if strides == 2 else "same",
        use_bias=False,
        # He's rule for a kernel that reads one channel: Keras counts all of them as inputs of a depthwise kernel.
        depthwise_initializer=keras.initializers.VarianceScaling(2.0, mode="fan_out", seed=kernels.he().seed),
        name=f"{name}_depthwise",
    )(x)
    x = _bn_relu(x, name, "1")
    x = blocks.conv(x, filters, 1, kernels, f"{name}_conv")
    x = _bn_relu(x, name, "2")
    return layers.Add(name=f"{name}_add")([shortcut, x]) if shortcut.shape == x.shape else x


def _bn_relu(x, name: str, number: str):
    return layers.ReLU(name=f"{name}_relu{number}")(blocks.batch_norm(x, f"{name}_bn{number}"))
