"""Small pruned classifiers of every structure the exporter has to cope with, converted once."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import sparsify, to_tflite


@dataclasses.dataclass(frozen=True)
class Case:
    """A pruned Keras model, its dense and sparse files, images and the Keras logits."""

    model: keras.Model
    dense: bytes
    sparse: bytes
    images: np.ndarray
    logits: np.ndarray

    @property
    def nonzeros(self):
        """Non-zeros of every kernel by its path below the model, counted by Keras."""
        return {
            variable.path.removeprefix("sequential/"): int(np.count_nonzero(variable.numpy()))
            for variable in self.model.variables
            if variable.path.endswith("kernel")
        }


def randomise(model, sparsity, seed=0):
    """Random weights that keep activations near 1, random batch norms, random masks."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape = variable.shape
        if variable.path.endswith("kernel"):
            fan_in = max(1.0, np.prod(shape[:-1]) * (1 - sparsity))
            values = rng.normal(0, np.sqrt(2 / fan_in), shape)
            values.flat[rng.permutation(values.size)[: int(sparsity * values.size)]] = 0
            variable.assign(values)
        elif "gamma" in variable.path or "moving_variance" in variable.path:
            variable.assign(rng.uniform(0.5, 2, shape))
        else:
            variable.assign(rng.normal(0, 0.1, shape))
    return model


def _sequential():
    return keras.Sequential(
        name="sequential",
        layers=[
            keras.Input((12, 12, 3)),
            layers.Rescaling(4.0, offset=-2.0),
            layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, name="conv2"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="dense1"),
            layers.Dense(10, name="logits"),
        ],
    )


def _conv_bn(x, filters, size, strides=1, relu=True, padding="same", name=None):
    x = layers.Conv2D(filters, size, strides=strides, padding=padding, use_bias=False, name=name)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def _residual():
    """Same-shaped kernels, projections beside the main path, explicit padding, pre-activation blocks."""
    image = keras.Input((12, 12, 3))
    x = _conv_bn(image, 16, 3, name="stem")
    y = _conv_bn(x, 16, 3, name="a1")
    x = layers.ReLU()(layers.Add()([x, _conv_bn(y, 16, 3, relu=False, name="a2")]))
    y = _conv_bn(layers.ZeroPadding2D(1)(x), 32, 3, strides=2, padding="valid", name="b1")
    y = _conv_bn(y, 32, 3, relu=False, name="b2")
    x = layers.Add()([_conv_bn(x, 32, 1, strides=2, relu=False, name="b_project"), y])
    y = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(32, 3, padding="same", use_bias=False, name="c1")(y)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    x = layers.Add()([x, layers.Conv2D(32, 3, padding="same", use_bias=False, name="c2")(y)])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x)))


def _separable():
    """Depthwise, separable, grouped and transposed convolutions, and pooling that keeps its dimensions."""
    image = keras.Input((12, 12, 3))
    x = _conv_bn(layers.ZeroPadding2D(1)(image), 16, 3, strides=2, padding="valid", name="stem")
    x = layers.DepthwiseConv2D(5, depth_multiplier=2, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(48, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Conv2D(48, 3, padding="same", groups=4, name="grouped")(x)
    x = layers.Conv2DTranspose(32, 3, padding="same", activation="relu", name="transposed")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(image, layers.Flatten()(layers.Conv2D(10, 1, name="logits")(x)))


def _dense_only():
    image = keras.Input((64,))
    x = layers.Dense(96, use_bias=False, name="dense1")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(96, activation="relu", name="dense2")(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def _shared():
    """A nested model, and a convolution used twice under different batch norms."""
    image = keras.Input((8, 8, 16))
    shared = layers.Conv2D(16, 3, padding="same", use_bias=False, name="shared")
    x = layers.ReLU()(layers.BatchNormalization()(shared(image)))
    x = layers.ReLU()(layers.BatchNormalization()(shared(x)))
    inner = keras.Sequential(
        [keras.Input((8, 8, 16)), layers.Conv2D(24, 3, name="conv"), layers.GlobalAveragePooling2D()],
        name="inner",
    )
    return keras.Model(image, layers.Dense(10, name="logits")(inner(x)))


BUILDERS = {
    "sequential": _sequential,
    "residual": _residual,
    "separable": _separable,
    "dense_only": _dense_only,
    "shared": _shared,
}


@pytest.fixture(scope="session")
def case():
    """Function (name, sparsity) -> Case; every case is made once."""
    cases = {}

    def get(name, sparsity):
        if (name, sparsity) not in cases:
            keras.backend.clear_session()
            model = randomise(BUILDERS[name](), sparsity)
            dense = to_tflite(model)
            images = np.random.default_rng(1).random((5, *model.input_shape[1:]), np.float32)
            logits = model(images, training=False).numpy()
            cases[name, sparsity] = Case(model, dense, sparsify(dense), images, logits)
        return cases[name, sparsity]

    return get


@pytest.fixture(scope="session")
def small(case):
    """The sequential model at 90 %, where any one will do."""
    return case("sequential", 0.9)
