"""Small models of every way in which layers can share channels, and random ones."""

import keras
import numpy as np
from keras import layers


def chain() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    for number, filters in enumerate((6, 5), start=1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"bn{number}")(x)
        x = layers.MaxPooling2D(2)(layers.ReLU()(x))
    x = layers.Dense(7, activation="relu", name="dense")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(4, name="logits")(x))


def residual() -> keras.Model:
    """An identity shortcut and one with a projection."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(image)
    y = layers.Conv2D(5, 3, padding="same", activation="relu", name="a1")(x)
    x = layers.Add()([x, layers.Conv2D(6, 3, padding="same", name="a2")(y)])
    y = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="b1")(layers.ReLU()(x))
    shortcut = layers.Conv2D(8, 1, 2, name="b_shortcut")(x)
    x = layers.Conv2D(8, 3, padding="same", name="b2")(y) + shortcut
    return keras.Model(image, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x)))


def dense_block() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(image)
    for number in (1, 2):
        y = layers.ReLU()(layers.BatchNormalization(name=f"bn{number}")(x))
        x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same", name=f"grow{number}")(y)])
    return keras.Model(image, layers.Dense(4, name="logits")(layers.Flatten()(layers.AveragePooling2D(4)(x))))


def inverted_residual() -> keras.Model:
    """The block of MobileNetV2: expand, depthwise, project, add."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    y = layers.ReLU(6.0)(layers.BatchNormalization(name="bn")(layers.Conv2D(12, 1, name="expand")(x)))
    y = layers.DepthwiseConv2D(3, name="depthwise")(layers.ZeroPadding2D(1)(y))
    x = layers.Add()([x, layers.Conv2D(4, 1, name="project")(y)])
    return keras.Model(image, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x)))


def squeeze_and_excite() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(image)
    gate = layers.Reshape((1, 1, 6))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(3, 1, activation="relu", name="squeeze")(gate)
    x = layers.Multiply()([x, layers.Conv2D(6, 1, activation="sigmoid", name="excite")(gate)])
    return keras.Model(image, layers.Dense(4, name="logits")(layers.GlobalMaxPooling2D()(x)))


def separable() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, name="first")(image)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="second")(x)
    x = layers.Conv2DTranspose(4, 2, 2, name="up")(x)
    return keras.Model(image, layers.Dense(4, name="logits")(layers.Flatten()(x)))


def nested() -> keras.Model:
    """A nested model called twice, with a layer that is shared beside it."""
    inner_in = keras.Input((8, 8, 6))
    inner = keras.Model(inner_in, layers.ReLU()(layers.Conv2D(6, 3, padding="same", name="conv")(inner_in)), name="in")
    shared = layers.Conv2D(5, 1, name="shared")
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(image)
    x = inner(inner(x))
    y = layers.Concatenate()([shared(x), shared(layers.Dropout(0.5)(x))])
    return keras.Model(image, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(y)))


def two_inputs() -> keras.Model:
    image, context = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="context")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, name="conv")(image))
    y = layers.Dense(4, activation="relu", name="embed")(context)
    x = layers.Dense(7, activation="relu", name="both")(layers.Concatenate()([x, y]))
    return keras.Model([image, context], [layers.Dense(4, name="logits")(x), layers.Dense(2, name="other")(x)])


ALL = (chain, residual, dense_block, inverted_residual, squeeze_and_excite, separable, nested, two_inputs)


def random_graph(seed: int) -> keras.Model:
    """A random model of convolutions, additions, concatenations, gates and more, with random statistics."""
    draws = np.random.default_rng(seed)
    image = keras.Input((6, 6, 2))
    tensors = [layers.Conv2D(int(draws.integers(2, 7)), 3, padding="same")(image)]
    for _ in range(draws.integers(3, 8)):
        x = tensors[draws.integers(len(tensors))]
        channels = x.shape[-1]
        alike = [t for t in tensors if t.shape == x.shape]
        kind = draws.integers(9)
        if kind in (0, 1):
            y = layers.Conv2D(
                int(draws.choice([channels, draws.integers(2, 7)])), int(draws.choice([1, 3])), padding="same"
            )(x)
        elif kind == 2:
            y = layers.ReLU()(layers.BatchNormalization()(x))
        elif kind == 3:
            y = layers.DepthwiseConv2D(3, padding="same", activation="tanh")(x)
        elif kind in (4, 5):
            y = layers.Add()([x, alike[draws.integers(len(alike))]])
        elif kind == 6:
            y = layers.Concatenate()([x, tensors[draws.integers(len(tensors))]])
        elif kind == 7:
            gate = layers.Dense(channels, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
            y = layers.Multiply()([x, gate])
        else:
            y = layers.LayerNormalization()(x) if draws.random() < 0.3 else layers.SpatialDropout2D(0.2)(x)
        tensors.append(y)
    used = tensors[-1]
    x = layers.Concatenate()([used, tensors[draws.integers(len(tensors))]]) if draws.random() < 0.5 else used
    x = layers.Flatten()(layers.AveragePooling2D(3)(x)) if draws.random() < 0.5 else layers.GlobalMaxPooling2D()(x)
    model = keras.Model(image, layers.Dense(3)(layers.Dense(5, activation="relu")(x)))
    for variable in model.variables:
        if "seed" not in variable.name:
            values = draws.normal(size=variable.shape) / np.sqrt(max(np.prod(variable.shape[:-1]), 1))
            variable.assign(np.abs(values) + 0.1 if "variance" in variable.name else values)
    return model


def example(model: keras.Model, seed: int = 0) -> list[np.ndarray]:
    """Two examples for each input of a model."""
    draws = np.random.default_rng(seed)
    return [draws.normal(size=(2, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
