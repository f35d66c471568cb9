"""Every kind of layer and model that can be pruned, in small: the tables of the contract tests.

Knows nothing of harp_tf, so that a process without it can load what was stripped.
"""

import keras
import numpy as np
from keras import layers

# name -> (class, its arguments, shape of one input)
LAYERS = {
    "dense": (layers.Dense, {"units": 5, "activation": "relu"}, (7,)),
    "dense on a sequence": (layers.Dense, {"units": 5}, (4, 7)),
    "einsum dense": (layers.EinsumDense, {"equation": "abc,cd->abd", "output_shape": (4, 6), "bias_axes": "d"}, (4, 7)),
    "einsum dense, heads": (
        layers.EinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (4, 2, 6), "bias_axes": "de"},
        (4, 7),
    ),
    "einsum dense, ellipsis": (
        layers.EinsumDense,
        {"equation": "...bc,bcd->...d", "output_shape": (6,), "bias_axes": "d"},
        (3, 4, 7),
    ),
    "conv 1d": (layers.Conv1D, {"filters": 6, "kernel_size": 3, "padding": "causal"}, (10, 3)),
    "conv 2d": (layers.Conv2D, {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}, (8, 8, 3)),
    "conv 2d in groups": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "groups": 2, "use_bias": False}, (6, 6, 4)),
    "conv 2d dilated": (layers.Conv2D, {"filters": 4, "kernel_size": (3, 2), "dilation_rate": 2}, (9, 9, 2)),
    "conv 3d": (layers.Conv3D, {"filters": 3, "kernel_size": 2}, (4, 4, 4, 2)),
    "conv 1d transposed": (layers.Conv1DTranspose, {"filters": 3, "kernel_size": 3, "strides": 2}, (5, 2)),
    "conv 2d transposed": (layers.Conv2DTranspose, {"filters": 3, "kernel_size": 3, "strides": 2}, (5, 5, 2)),
    "conv 3d transposed": (layers.Conv3DTranspose, {"filters": 2, "kernel_size": 2}, (3, 3, 3, 2)),
    "depthwise 1d": (layers.DepthwiseConv1D, {"kernel_size": 3, "depth_multiplier": 2}, (8, 3)),
    "depthwise 2d": (layers.DepthwiseConv2D, {"kernel_size": 3, "strides": 2}, (8, 8, 5)),
    "separable 1d": (layers.SeparableConv1D, {"filters": 5, "kernel_size": 3}, (8, 3)),
    "separable 2d": (layers.SeparableConv2D, {"filters": 5, "kernel_size": 3, "depth_multiplier": 2}, (8, 8, 3)),
}

# name -> function that makes a layer whose kernels lie in layers of its own, and the paths of these kernels
COMPOSITES = {
    "attention": (
        lambda: layers.MultiHeadAttention(2, 4, dropout=0.1, name="mixer"),
        ["query/kernel", "key/kernel", "value/kernel", "attention_output/kernel"],
    ),
    "grouped attention": (
        lambda: layers.GroupQueryAttention(4, 4, 2, name="mixer"),
        ["query/kernel", "key/kernel", "value/kernel", "attention_output/kernel"],
    ),
    "time distributed": (
        lambda: layers.TimeDistributed(layers.Dense(8, name="inner"), name="mixer"),
        ["inner/kernel"],
    ),
    "custom block": (
        lambda: Block(8, name="mixer"),
        [
            "residual/attention/query/kernel",
            "residual/attention/key/kernel",
            "residual/attention/value/kernel",
            "residual/attention/attention_output/kernel",
            "steps/0/kernel",
            "steps/1/kernel",
            "by_name/narrow/kernel",
            "branch/0/kernel",
            "branch/2/kernel",
        ],
    ),
}


@keras.saving.register_keras_serializable("zoo")
class NormFirst(layers.Layer):
    """x + attention(norm(x)); builds its layers itself."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.norm = layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(heads, 4, name="attention")

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.attention.build(input_shape, input_shape)

    def call(self, inputs):
        x = self.norm(inputs)
        return inputs + self.attention(x, x)

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable("zoo")
class Block(layers.Layer):
    """Layers in lists, in dictionaries and in a model; one used twice; a weight of its own; no build()."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.mix = NormFirst(2, name="residual")
        self.steps = [layers.Dense(width, activation="relu"), layers.Dense(width, use_bias=False)]
        self.by_name = {"narrow": layers.Dense(width, activity_regularizer="l2")}
        self.again = self.steps[1]
        self.branch = keras.Sequential([layers.Dense(2 * width), layers.ReLU(), layers.Dense(width)])
        self.gain = self.add_weight(name="gain", shape=(width,), initializer="ones")

    def call(self, inputs):
        x = self.mix(inputs)
        for step in self.steps:
            x = step(x)
        return self.gain * self.branch(self.again(self.by_name["narrow"](x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("zoo")
class AddPositions(layers.Layer):
    """Adds a learned position to every token: a weight of two dimensions that is no kernel."""

    def build(self, input_shape):
        self.positions = self.add_weight(name="positions", shape=tuple(input_shape[1:]), initializer="normal")

    def call(self, inputs):
        return inputs + self.positions


@keras.saving.register_keras_serializable("zoo")
class Net(keras.Model):
    """A subclassed model: layers as attributes and in a list, a functional backbone, a weight of its own."""

    def __init__(self, width, classes=3, name="net"):
        super().__init__(name=name)
        self.width, self.classes = width, classes
        self.stem = layers.Conv2D(width, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()
        self.stages = [layers.DepthwiseConv2D(3, padding="same", name=f"stage{i}") for i in range(2)]
        inputs = keras.Input((8, 8, width))
        x = layers.Conv2D(width, 1, name="squeeze")(inputs)
        self.backbone = keras.Model(inputs, layers.Add()([layers.Conv2D(width, 1)(layers.ReLU()(x)), inputs]))
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(classes)
        self.temperature = self.add_weight(name="temperature", shape=(), initializer="ones")

    def call(self, images, training=False):
        x = self.norm(self.stem(images), training=training)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.pool(self.backbone(x))) / self.temperature

    def get_config(self):
        return {"width": self.width, "classes": self.classes, "name": self.name}


@keras.saving.register_keras_serializable("zoo")
class OwnFunctional(keras.Model):
    """Functional inside, with a constructor of its own; Keras saves the arguments, not the layers."""

    def __init__(self, width, name="own"):
        inputs = keras.Input((8, 8, 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3, name="conv")(inputs))
        super().__init__(inputs, layers.Dense(3, name="head")(x), name=name)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(2.0, offset=-1.0),
            layers.Conv2D(6, 3, activation="relu", activity_regularizer=keras.regularizers.L2(0.01), name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.SeparableConv2D(5, 3, name="separable"),
            layers.Flatten(),
            layers.Dropout(0.2, seed=1),
            layers.Dense(3, kernel_regularizer="l2", name="head"),
        ],
        name="sequential_net",
    )


def nested():
    """Three levels, a model called twice, a layer called three times, operations in between."""
    trunk = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, padding="same", name="conv"), layers.ReLU(name="relu")],
        name="trunk",
    )
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(4, 1, name="shared")
    x = trunk(inputs)
    body = keras.Model(inputs, shared(shared(x)) + x, name="body")
    a, b = body(inputs), body(1.0 - inputs)
    x = layers.Concatenate(name="join")([a, b])
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalMaxPooling2D(name="pool")(x)), name="nested")


def several():
    """Two inputs in a dictionary, two outputs in a dictionary; one of the inputs is no image."""
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="extra")
    x = layers.Flatten(name="flatten")(layers.Conv2D(4, 3, strides=2, name="conv")(image))
    x = layers.Concatenate(name="join")([x, layers.Dense(4, name="embed")(extra)])
    outputs = {"label": layers.Dense(3, name="label")(x), "value": layers.Dense(2, name="value")(x)}
    return keras.Model({"image": image, "extra": extra}, outputs, name="several")


def transformer(width=16, patch=2, depth=1, heads=2, size=8, classes=3):
    """A small vision transformer of Keras' own layers but for the positions."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(width, patch, strides=patch, name="patches")(inputs)
    x = AddPositions(name="positions")(layers.Reshape((-1, width), name="tokens")(x))
    for i in range(depth):
        h = layers.LayerNormalization(name=f"norm{i}a")(x)
        h = layers.MultiHeadAttention(heads, width // heads, name=f"attention{i}")(h, h)
        x = layers.Add(name=f"add{i}a")([x, h])
        h = layers.LayerNormalization(name=f"norm{i}b")(x)
        h = layers.Dense(2 * width, activation="gelu", name=f"up{i}")(h)
        x = layers.Add(name=f"add{i}b")([x, layers.Dense(width, name=f"down{i}")(h)])
    x = layers.GlobalAveragePooling1D(name="pool")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(classes, name="head")(x), name="transformer")


def with_composite(name):
    """A model around one of COMPOSITES, which gets a sequence of 6 tokens of width 8."""
    make, _ = COMPOSITES[name]
    layer = make()
    inputs = keras.Input((6, 8))
    x = layer(inputs, inputs) if "attention" in name else layer(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flatten")(x)), name="around")


def subclassed():
    model = Net(4)
    model(np.zeros((1, 8, 8, 3), np.float32))
    return model


def subclass_nested():
    """A subclassed model as a layer of a functional one."""
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layers.Dense(3, name="head")(Net(4, 5, name="inner")(inputs)), name="outer")


MODELS = {
    "sequential": sequential,
    "nested": nested,
    "several": several,
    "transformer": transformer,
    "own functional": lambda: OwnFunctional(4),
    "subclassed": subclassed,
    "subclass nested": subclass_nested,
    **{name: (lambda name=name: with_composite(name)) for name in COMPOSITES},
}


def inputs_for(model, batch=3, seed=0):
    """A batch in [0, 1] in the nesting in which the model takes its inputs."""
    draws = np.random.default_rng(seed)
    if isinstance(model, Net):
        return draws.uniform(size=(batch, 8, 8, 3)).astype(np.float32)
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(lambda t: draws.uniform(size=(batch, *t.shape[1:])).astype(np.float32), inputs)


def randomise(model, seed=0):
    """Values that are none of those that initialisers give, and no variance below zero."""
    draws = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" not in variable.name:
            sign = 1 if "variance" in variable.name else draws.choice([-1, 1], variable.shape)
            variable.assign(draws.uniform(0.1, 1, variable.shape) * sign)
    return model
