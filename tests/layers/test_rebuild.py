"""Copies of models through their configuration."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.layers import project_to_budget, prune, register_kernels, strip
from harp_tf.layers.rebuild import is_graph, rebuild, walk
from harp_tf.training import AdversarialModel
from harp_tf.types import HarpError


def keep(path, layer):
    return None


def nested_model():
    """A Sequential inside a Functional inside a Functional, a layer and a model that are called twice."""
    stem = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")], name="stem"
    )
    inputs = keras.Input((8, 8, 3))
    features = layers.Flatten(name="flatten")(stem(inputs))
    trunk = keras.Model(inputs, layers.Dense(6, name="project")(features), name="trunk")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    shared = layers.Dense(6, name="shared")
    a, b = shared(trunk(left)), shared(shared(trunk(right)))
    outputs = layers.Dense(3, name="head")(layers.Add(name="add")([keras.ops.tanh(a) * 2.0, b]))
    model = keras.Model([left, right], [outputs, a], name="whole")
    for variable in model.variables:
        variable.assign(np.random.default_rng(len(variable.path)).uniform(0.1, 1, variable.shape))
    return model


def test_walk_opens_nested_models_and_names_each_layer_once():
    found = [path for path, _ in walk(nested_model())]
    trunk = ["trunk/stem/conv", "trunk/stem/norm", "trunk/flatten", "trunk/project"]
    assert found == [*trunk, "shared", "add", "head"]


def test_a_copy_has_the_same_names_graph_and_weights_and_variables_of_its_own():
    model = nested_model()
    copy = rebuild(model, keep)
    assert copy.get_config() == model.get_config()
    assert [v.name for v in copy.variables] == [v.name for v in model.variables]
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    images = [np.random.default_rng(i).uniform(size=(2, 8, 8, 3)).astype(np.float32) for i in range(2)]
    for found, expected in zip(copy(images), model(images), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_replaced_layers():
    def tanh(path, layer):
        if path != "trunk/project":
            return None
        return layers.Dense, {**layer.get_config(), "activation": "tanh", "units": layer.units}

    model = nested_model()
    copy = rebuild(model, tanh)
    assert dict(walk(copy))["trunk/project"].activation is keras.activations.tanh
    assert dict(walk(model))["trunk/project"].activation is keras.activations.linear


@pytest.mark.parametrize("build", ["input", "call", "build"])
def test_sequential_models_however_they_were_built(build):
    model = keras.Sequential([*([keras.Input((4,))] if build == "input" else []), layers.Dense(3), layers.Dense(2)])
    if build == "call":
        model(np.zeros((5, 4), np.float32))
    elif build == "build":
        model.build((None, 4))
    copy = rebuild(model, keep)
    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_array_equal(copy(images), model(images))
    assert type(copy) is keras.Sequential and copy.name == model.name


def test_dictionaries_of_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    model = keras.Model({"b": b, "a": a}, {"sum": layers.Dense(3)(a) + layers.Dense(3)(b)})
    images = {"a": np.ones((2, 4), np.float32), "b": np.ones((2, 5), np.float32)}
    np.testing.assert_array_equal(rebuild(model, keep)(images)["sum"], model(images)["sum"])


def test_frozen_layers_and_states_are_copied():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, trainable=False, name="frozen"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5, seed=3, name="dropout"),
        ]
    )
    model(np.ones((8, 4), np.float32), training=True)
    copy = rebuild(model, keep)
    assert [layer.trainable for layer in copy.layers] == [False, True, True]
    for found, expected in zip(copy.variables, model.variables, strict=True):
        np.testing.assert_array_equal(found, expected)
    model.trainable = False
    assert not rebuild(model, keep).trainable_variables


def double(x):
    return 2 * x


class Doubled(layers.Layer):
    """A custom layer, not registered with Keras."""

    def __init__(self, scale=2.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def build(self, input_shape):
        self.offset = self.add_weight(name="offset", shape=(input_shape[-1],))

    def call(self, inputs):
        return self.scale * inputs + self.offset

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def test_custom_layers_and_functions_need_no_registration():
    model = keras.Sequential([keras.Input((4,)), Doubled(3.0), Doubled(), layers.Dense(3, activation=double)])
    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_array_equal(rebuild(model, keep)(images), model(images))


# What cannot be copied -------------------------------------------------------------------------------------------


def test_two_functions_of_one_name():
    def other():
        def double(x):
            return 3 * x

        return double

    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation=double), layers.Dense(3, activation=other())], name="twins"
    )
    with pytest.raises(HarpError, match="Model 'twins' uses two different objects named 'double'. Register them"):
        rebuild(model, keep)


def test_lambda_layers():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Lambda(lambda x: 2 * x)], name="nameless")
    with pytest.raises(
        HarpError, match="'nameless' cannot be rebuilt .*Lambda.* use named functions instead of lambdas"
    ):
        rebuild(model, keep)


class Stubborn(layers.Dense):
    """Its constructor takes none of what its configuration holds."""

    def __init__(self):
        super().__init__(3)


def test_layers_without_a_configuration():
    with pytest.raises(HarpError, match=r"cannot be rebuilt .*Give custom layers and models a get_config\(\)"):
        rebuild(keras.Sequential([keras.Input((4,)), Stubborn()]), keep)


class OwnFunctional(keras.Model):
    """Functional inside, with a constructor of its own; Keras saves the arguments, not the layers."""

    def __init__(self, width):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(width, name="dense")(inputs), name="own")
        self.width = width

    def get_config(self):
        return {"width": self.width}


def test_a_functional_model_with_a_constructor_of_its_own_becomes_a_plain_one():
    own = OwnFunctional(3)
    copy = rebuild(own, keep)
    assert type(copy) is type(keras.Model(own.inputs, own.outputs))
    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_array_equal(copy(images), own(images))
    inputs = keras.Input((4,))
    outer = keras.Model(inputs, layers.ReLU(name="relu")(own(inputs)))
    assert [path for path, _ in walk(rebuild(outer, keep))] == ["own/dense", "relu"]


class OwnCall(OwnFunctional):
    """Not what its graph says."""

    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs, training=training, mask=mask)


def test_a_functional_model_with_a_call_of_its_own_is_no_graph():
    own = OwnCall(3)
    assert is_graph(OwnFunctional(3)) and not is_graph(own)
    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    copy = rebuild(own, keep)
    assert type(copy) is OwnCall
    np.testing.assert_array_equal(copy(images), own(images))


def test_a_model_without_weights():
    with pytest.raises(HarpError, match=r"Model 'empty' has no weights yet. Begin it with keras.Input\(shape\)"):
        rebuild(keras.Sequential([layers.Dense(3)], name="empty"), keep)


def test_a_layer_shared_across_models():
    inputs = keras.Input((4,))
    dense = layers.Dense(4, name="dense")
    inner = keras.Model(inputs, dense(inputs), name="inner")
    model = keras.Model(inputs, dense(inner(inputs)), name="outer")
    with pytest.raises(HarpError, match=r"'outer' shares layers between itself and a nested model \(.*dense.*\)"):
        rebuild(model, keep)


@pytest.mark.parametrize("given", [None, "model.keras", layers.Dense(3), np.zeros(3)])
def test_what_is_no_model(given):
    with pytest.raises(HarpError, match="Expected a Keras 3 model .*received .*built anew with keras.layers"):
        rebuild(given, keep)


class Multiplied(layers.Layer):
    """Without get_config(): Keras notes what the constructor gets."""

    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """Likewise, with a kernel."""

    def __init__(self, units=8, factor=1.0, **options):
        super().__init__(**options)
        self.units, self.factor = units, factor

    def build(self, input_shape):
        self.table = self.add_weight(shape=(input_shape[-1], self.units), name="table")

    def call(self, inputs):
        return self.factor * keras.ops.matmul(inputs, self.table)


@keras.saving.register_keras_serializable("tests")
class Bilinear(layers.Layer):
    """With two inputs, whose shapes Keras gives to `build` by name."""

    def build(self, left_shape, right_shape):
        self.table = self.add_weight(shape=(left_shape[-1], right_shape[-1]), name="table")

    def call(self, left, right):
        return keras.ops.matmul(left, self.table) * right


def adapted() -> layers.Layer:
    layer = layers.Normalization(name="normal")
    layer.adapt(np.random.default_rng(0).normal(0.5, 0.2, (64, 6)))
    return layer


def of_layers_without_names() -> keras.Model:
    image = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), Multiplied(0.5), layers.Dense(5)], name="inner")
    hidden = layers.Add()([Multiplied(3.0)(image), keras.ops.relu(image), Multiplied()(image)])
    return keras.Model(image, layers.Dense(3)(inner(hidden)))


def of_two_inputs() -> keras.Model:
    image = keras.Input((6,))
    return keras.Model(image, layers.Dense(3)(Bilinear()(layers.Dense(4)(image), layers.Dense(5)(image))))


@pytest.mark.parametrize(
    "model",
    [
        lambda: keras.Sequential([keras.Input((6,)), adapted(), layers.Dense(3)]),
        lambda: keras.Sequential(
            [keras.Input((6,)), keras.Sequential([keras.Input((6,)), adapted()], name="first"), layers.Dense(3)]
        ),
        of_layers_without_names,
        lambda: keras.Sequential([keras.Input((6,)), Scaled(4, 3.0), Multiplied(), layers.Dense(3)]),
        of_two_inputs,
    ],
    ids=["adapted", "adapted and nested", "without names", "own kernel", "two inputs"],
)
def test_what_a_config_does_not_hold_is_copied_too(model, tmp_path):
    register_kernels(Scaled, "table")
    register_kernels(Bilinear, "table")
    model = model()
    images = np.random.default_rng(1).normal(0.5, 0.2, (8, 6)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    pruned = prune(model, 1e-6, initial_rate=1.0, verbose=False)
    assert [path for path, _ in walk(pruned)] == [path for path, _ in walk(model)]
    np.testing.assert_allclose(pruned.predict(images, verbose=0), expected, rtol=1e-6)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras", {"Multiplied": Multiplied})
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, rtol=1e-6)
    for source in (pruned, loaded):
        project_to_budget(source)  # one weight goes
        wanted = source.predict(images, verbose=0)
        np.testing.assert_allclose(strip(source).predict(images, verbose=0), wanted, rtol=1e-6)


def test_a_training_is_no_network():
    trainer = AdversarialModel(keras.Sequential([keras.Input((6,)), layers.Dense(3)]), "natural")
    with pytest.raises(HarpError, match="Pass its network: trainer.network"):
        prune(trainer, 0.5)
    trainer = AdversarialModel(prune(trainer.network, 0.5, verbose=False), "natural")
    with pytest.raises(HarpError, match="Pass its network: trainer.network"):
        strip(trainer)
