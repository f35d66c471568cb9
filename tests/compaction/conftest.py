"""Random pruned models, and what tests of compaction compare."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compaction import compact_with_report


class RandomGraph:
    """A random classifier of all layers that compaction knows, and some that it does not."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        keras.backend.clear_session()

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def activation(self, x):
        kind = self.pick("relu", "relu", "relu6", "leaky", "sigmoid", "silu", "prelu", "none")
        if kind == "relu6":
            return layers.ReLU(max_value=6.0)(x)
        if kind == "leaky":
            return layers.LeakyReLU()(x)
        if kind == "prelu":
            return layers.PReLU(shared_axes=[1, 2])(x)
        return x if kind == "none" else layers.Activation(kind)(x)

    def norm(self, x):
        return layers.BatchNormalization(scale=self.pick(True, True, False))(x) if self.pick(0, 1, 1) else x

    def conv(self, x, filters=None, strides=1, padding=None, kind=None):
        kind = kind or self.pick(*("conv",) * 8, *("depthwise", "separable", "transposed") * 2, "grouped")
        size, padding = self.pick(1, 3, 3), padding or self.pick("same", "same", "valid")
        size = size if x.shape[1] >= 5 else 1
        filters = filters or 4 * int(self.rng.integers(2, 7))
        bias, activation = self.pick(True, False), self.pick(None, None, "relu", "tanh")
        common = {"padding": padding, "use_bias": bias, "activation": activation}
        if kind == "depthwise":
            return layers.DepthwiseConv2D(size, strides=strides, depth_multiplier=self.pick(1, 1, 2), **common)(x)
        if kind == "separable":
            return layers.SeparableConv2D(filters, size, strides=strides, depth_multiplier=self.pick(1, 2), **common)(x)
        if kind == "transposed":
            return layers.Conv2DTranspose(filters, size, strides=strides, **common)(x)
        groups = 4 if kind == "grouped" and x.shape[-1] % 4 == 0 else 1
        return layers.Conv2D(filters, size, strides=strides, groups=groups, **common)(x)

    def residual(self, x):
        width = x.shape[-1]
        y = self.activation(self.norm(self.conv(x, padding="same", kind="conv")))
        y = self.norm(self.conv(y, width, padding="same", kind=self.pick("conv", "separable")))
        joined = self.pick(layers.Add, layers.Add, layers.Maximum, layers.Average, layers.Multiply)()([x, y])
        return self.activation(joined if self.pick(0, 1) else y + x * 0.5)

    def gate(self, x):
        width = x.shape[-1]
        y = layers.Dense(6, activation="relu")(layers.GlobalAveragePooling2D()(x))
        y = layers.Reshape((1, 1, width))(layers.Dense(width, activation=self.pick("sigmoid", "relu"))(y))
        return layers.Multiply()([x, y])

    def branches(self, x):
        parts = [self.activation(self.norm(self.conv(x, padding="same"))) for _ in range(self.pick(2, 3))]
        parts = [p for p in parts if p.shape[1:-1] == x.shape[1:-1]] + [x]
        return layers.Concatenate()(parts) if self.pick(0, 1) else keras.ops.concatenate(parts, axis=-1)

    def spatial(self, x):
        if x.shape[1] < 4:
            return layers.UpSampling2D(2, interpolation=self.pick("nearest", "bilinear"))(x)
        pool = self.pick(layers.MaxPooling2D, layers.AveragePooling2D)
        return self.pick(
            pool(2),
            pool(3, strides=2, padding="same"),
            layers.ZeroPadding2D(1),
            layers.Cropping2D(1),
            layers.Dropout(0.3),
            layers.SpatialDropout2D(0.3),
            layers.Rescaling(0.7, offset=0.1),
            layers.Rescaling([1.5] * x.shape[-1], offset=list(np.linspace(-1, 1, x.shape[-1]))),
            layers.LayerNormalization(),
        )(x)

    def nested(self, x):
        inner = keras.Input(x.shape[1:])
        y = self.activation(self.norm(self.conv(inner)))
        return keras.Model(inner, self.spatial(y))(x)

    def build(self) -> keras.Model:
        image = keras.Input((12, 12, 3))
        x = layers.Rescaling(2.0, offset=-1.0)(image)
        for _ in range(self.rng.integers(2, 5)):
            x = self.activation(self.norm(self.conv(x, strides=2 if x.shape[1] > 16 else 1)))
            step = self.pick(self.residual, self.gate, self.branches, self.spatial, self.nested, self.spatial)
            x = step(x)
        head = self.pick("flatten", "gap", "gmp", "reshape")
        if head == "gap":
            x = layers.GlobalAveragePooling2D()(x)
        elif head == "gmp":
            x = layers.GlobalMaxPooling2D()(x)
        else:
            x = layers.Flatten()(x) if head == "flatten" else layers.Reshape((-1,))(x)
        x = self.pick(layers.ReLU(), layers.Dropout(0.5))(self.norm(layers.Dense(32)(x)))
        return keras.Model(image, layers.Dense(5)(x))


def randomise(model: keras.Model, rng: np.random.Generator, low: float = 0.5, high: float = 0.999) -> keras.Model:
    """Random weights that keep activations near 1, random batch norms, kernels with uneven random zeros."""
    density = np.exp(rng.uniform(np.log(1 - high), np.log(1 - low)))
    for variable in model.variables:
        name, shape = variable.path.rsplit("/", 1)[-1], tuple(variable.shape)
        if "kernel" in name:
            variable.assign(masked(shape, rng, 1 - density))
        elif name in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 2, shape)
            values[rng.random(shape) < 0.1] = 0 if name == "gamma" else 1
            variable.assign(values)
        elif variable.dtype.startswith("float"):
            variable.assign(rng.normal(0, 0.2, shape))
    return model


def masked(shape: tuple[int, ...], rng: np.random.Generator, sparsity: float) -> np.ndarray:
    """A kernel with this fraction of zeros, as learned masks have them: some channels matter more than others.

    The first channels of every layer matter most, so that something of the image arrives at the logits.
    """
    inputs, outputs = (np.exp(-5 * np.arange(length) / length) for length in shape[-2:])
    scores = rng.random(shape) * inputs[:, None] * outputs
    kept = max(shape[-1] // 2, round(scores.size * (1 - sparsity)), 1)
    values = rng.normal(0, 1, shape)
    values.flat[np.argsort(scores, axis=None)[:-kept]] = 0
    gain = np.sqrt(np.sum(values**2, axis=tuple(range(len(shape) - 1))))
    return values * 1.5 / np.where(gain > 0, gain, 1)


def kill(layer, dead, bias=0.0):
    """Makes filters of a convolution or Dense layer zero, and gives them this bias."""
    gone = np.isin(np.arange(layer.kernel.shape[-1]), dead)
    layer.kernel.assign(layer.kernel.numpy() * ~gone)
    layer.bias.assign(np.where(gone, bias, layer.bias.numpy()))


@pytest.fixture(scope="session")
def random_model():
    """Function seed -> random pruned model."""

    def make(seed: int) -> keras.Model:
        graph = RandomGraph(seed)
        return randomise(graph.build(), graph.rng)

    return make


@pytest.fixture(scope="session")
def randomised():
    """Function (model, sparsity) -> the model with random weights and masks."""
    return lambda model, sparsity: randomise(model, np.random.default_rng(0), sparsity, sparsity)


@pytest.fixture(scope="session")
def same_outputs():
    """Function (model, small): fails unless their outputs agree to 1e-4 of their spread; returns the images."""

    def check(model, small, count=4):
        shape = [12 if size is None else size for size in model.input_shape[1:]]
        images = np.random.default_rng(1).normal(0.5, 1.0, (count, *shape)).astype("float32")
        wanted, got = (keras.ops.convert_to_numpy(m(images, training=False)) for m in (model, small))
        assert wanted.shape == got.shape and np.all(np.isfinite(wanted))
        assert np.max(np.abs(wanted - got)) <= 1e-4 * max(np.std(wanted), 1e-6 * np.max(np.abs(wanted)))

    return check


@pytest.fixture(scope="session")
def checked(same_outputs):
    """Function model -> (compact model, {layer: channels}), after comparing the outputs of both models."""

    def run(model, **options):
        small, report = compact_with_report(model, **options)
        same_outputs(model, small)
        return small, {layer.name: layer.channels_after for layer in report.layers}

    return run
