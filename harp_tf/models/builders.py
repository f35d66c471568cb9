"""The table of models: a name, its builder, the smallest image it accepts."""

import keras

from harp_tf.models import cnn, mobile, resnet, vgg, wide_resnet
from harp_tf.types import HarpError

_BUILDERS = {
    "cnn_digits": (cnn.cnn_digits, 4),
    "mobile_sparse": (mobile.mobile_sparse, 16),
    "resnet18": (resnet.resnet18, 8),
    "resnet50": (resnet.resnet50, 32),
    "vgg16_bn": (vgg.vgg16_bn, 32),
    "vgg28": (vgg.vgg28, 8),
    "wrn_28_4": (wide_resnet.wrn_28_4, 8),
}


def names() -> tuple[str, ...]:
    """Returns the names that `build` knows."""
    return tuple(_BUILDERS)


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: float | None = None,
    depth: int | None = None,
    seed: int = 0,
) -> keras.Model:
    """Builds a dense classifier: images [batch, H, W, C] in [0, 1] in, logits [batch, num_classes] out.

    Args:
        name: One of `names()`.
        input_shape: (height, width, channels) of an image.
        num_classes: Number of logits, at least 2.
        width: Multiplies the channels of every layer (default 1).
        depth: Repeats every stage's convolutions or residual blocks that many times (default 1).
        seed: Fixes the initial kernels: the same arguments give the same model, bit by bit.

    Returns:
        A functional Keras model with its normalisation inside.

    Raises:
        HarpError: For an unknown name, or a size that the model cannot have.
    """
    if name not in _BUILDERS:
        raise HarpError(
            f"Unknown model '{name}'. Expected one of {', '.join(names())}, the path of a .keras file, or "
            "package.module:function."
        )
    builder, smallest = _BUILDERS[name]
    width = 1.0 if width is None else width
    depth = 1 if depth is None else depth
    if not 0 < width < float("inf"):
        raise HarpError(f"A model's width must be a positive multiplier, received {width}.")
    if depth < 1:
        raise HarpError(f"A model's depth must be a whole number of at least 1, received {depth}.")
    if num_classes < 2:
        raise HarpError(f"A classifier needs at least 2 classes, received {num_classes}.")
    if len(input_shape) != 3 or min(input_shape[:2]) < smallest:
        raise HarpError(
            f"Model '{name}' needs images (height, width, channels) of at least {smallest}x{smallest} "
            f"pixels, received shape {tuple(input_shape)}. Choose a smaller model: {', '.join(names())}."
        )
    return builder(tuple(input_shape), num_classes, width, depth, seed)
