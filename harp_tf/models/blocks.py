"""What every family of models shares: seeded kernels, normalised images, convolution, batch norm, logits."""

import random

import keras
from keras import layers

# Mean and standard deviation of ImageNet's channels in [0, 1]. Every colour model uses them, whatever it
# is trained on: batch normalisation absorbs the small difference to the statistics of another data set.
COLOUR_MEAN = (0.485, 0.456, 0.406)
COLOUR_STD = (0.229, 0.224, 0.225)


class Kernels:
    """Hands every layer an initialiser with its own seed, so that a whole model follows from one seed."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def he(self) -> keras.initializers.Initializer:
        """Returns He's normal initialiser (for layers followed by a ReLU)."""
        return keras.initializers.HeNormal(seed=self._random.getrandbits(31))

    def glorot(self) -> keras.initializers.Initializer:
        """Returns Glorot's uniform initialiser (for the logits)."""
        return keras.initializers.GlorotUniform(seed=self._random.getrandbits(31))


def channels(number: int, width: float) -> int:
    """Returns `number` channels scaled by `width`, at least one."""
    return max(1, round(number * width))


def images(input_shape: tuple[int, int, int]):
    """Returns the model's input ([0, 1] images) and the normalised tensor that its first layer reads.

    A `Rescaling` layer holds the constants: it has no state, so it is saved, loaded and exported with
    the model, and whoever uses the model (an attack, a phone) works in [0, 1].
    """
    image = keras.Input(input_shape, name="image")
    if input_shape[-1] == 3:
        scale = [1 / std for std in COLOUR_STD]
        offset = [-mean / std for mean, std in zip(COLOUR_MEAN, COLOUR_STD)]
        return image, layers.Rescaling(scale, offset=offset, name="normalise")(image)
    return image, layers.Rescaling(2.0, offset=-1.0, name="normalise")(image)


def batch_norm(x, name: str):
    """Applies batch normalisation with the customary constants of image classifiers.

    Momentum 0.9, because Keras' 0.99 needs hundreds of steps before inference mode, in which attacks run,
    sees true statistics: more than a short training has.
    """
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def conv(x, filters: int, size: int, kernels: Kernels, name: str, strides: int = 1):
    """Applies a 'same' convolution without bias (a batch normalisation follows or precedes every one)."""
    return layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=kernels.he(),
        name=name,
    )(x)


def logits(x, num_classes: int, kernels: Kernels):
    """Applies the last layer: one float32 logit per class, whatever the precision of the layers before."""
    return layers.Dense(num_classes, kernel_initializer=kernels.glorot(), dtype="float32", name="logits")(x)
