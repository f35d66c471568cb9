import sys
import zipfile

import keras
import numpy as np
import pytest

from harp_tf import models
from harp_tf.types import HarpError

SHAPE = (8, 8, 1)


def network(*last_layers, shape=SHAPE):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), *last_layers])


def saved(model, folder):
    path = folder / "model.keras"
    model.save(path)
    return str(path)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes a module of the user's own and returns its name."""

    def write(source):
        (tmp_path / "users_own.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "users_own", raising=False)
        return "users_own"

    yield write
    sys.modules.pop("users_own", None)


def test_a_name_is_built():
    model, loaded = models.load_or_build("cnn_digits", SHAPE, 10, width=0.5, seed=1)
    assert not loaded
    expected = models.build("cnn_digits", SHAPE, 10, width=0.5, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), expected.get_weights()))


def test_a_file_is_loaded_with_its_weights(tmp_path):
    original = models.build("cnn_digits", SHAPE, 10, width=0.25, seed=5)
    model, loaded = models.load_or_build(saved(original, tmp_path), SHAPE, 10)
    assert loaded
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), original.get_weights()))


def test_a_function_is_called_with_shape_and_classes(user_module):
    name = user_module(
        "import keras\n"
        "def make(input_shape, num_classes):\n"
        "    layers = [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes)]\n"
        "    return keras.Sequential(layers)\n"
    )
    model, loaded = models.load_or_build(f"{name}:make", (4, 4, 3), 7)
    assert not loaded
    assert model.input_shape == (None, 4, 4, 3) and model.output_shape == (None, 7)


def test_unknown_name_lists_the_names():
    with pytest.raises(HarpError, match="Unknown model 'resnet19'.*resnet18"):
        models.load_or_build("resnet19", SHAPE, 10)


def test_missing_file():
    with pytest.raises(HarpError, match="There is no model file 'nowhere/m.keras'"):
        models.load_or_build("nowhere/m.keras", SHAPE, 10)


@pytest.mark.parametrize("content", [b"", b"this is no zip file", b"\x89HDF\r\n\x1a\n broken"])
def test_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(HarpError, match="could not be read as a Keras 3 model"):
        models.load_or_build(str(path), SHAPE, 10)


def test_zip_file_that_is_no_model(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(HarpError, match="could not be read as a Keras 3 model"):
        models.load_or_build(str(path), SHAPE, 10)


def test_truncated_file(tmp_path):
    path = tmp_path / "model.keras"
    models.build("cnn_digits", SHAPE, 10, width=0.25).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(HarpError, match="could not be read as a Keras 3 model"):
        models.load_or_build(str(path), SHAPE, 10)


def test_lambda_layers_are_not_run(tmp_path):
    model = network(keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(10))
    with pytest.raises(HarpError, match="Lambda layers are refused"):
        models.load_or_build(saved(model, tmp_path), SHAPE, 10)


@pytest.mark.parametrize(
    "spec", ["no_such_module_of_mine:make", "json:no_such_function", ":make", "json:", "a b:c", "..x:y"]
)
def test_function_that_is_not_there(spec):
    with pytest.raises(HarpError, match="was not found|not a function"):
        models.load_or_build(spec, SHAPE, 10)


def test_thing_that_is_no_function(user_module):
    name = user_module("make = 3\n")
    with pytest.raises(HarpError, match="is not a function"):
        models.load_or_build(f"{name}:make", SHAPE, 10)


def test_function_that_returns_no_model(user_module):
    name = user_module("def make(input_shape, num_classes):\n    return 3\n")
    with pytest.raises(HarpError, match="is a int; expected a keras.Model"):
        models.load_or_build(f"{name}:make", SHAPE, 10)


def test_model_that_is_not_built(user_module):
    name = user_module(
        "import keras\ndef make(input_shape, num_classes):\n    return keras.Sequential([keras.layers.Dense(3)])\n"
    )
    with pytest.raises(HarpError, match="must be a built Sequential or Functional model"):
        models.load_or_build(f"{name}:make", SHAPE, 10)


def test_two_outputs_are_refused(tmp_path):
    image = keras.Input(SHAPE)
    x = keras.layers.Flatten()(image)
    model = keras.Model(image, [keras.layers.Dense(10)(x), keras.layers.Dense(10)(x)])
    with pytest.raises(HarpError, match="one input and one output"):
        models.load_or_build(saved(model, tmp_path), SHAPE, 10)


def test_what_could_not_be_exported_is_refused_before_it_is_trained(tmp_path):
    image = keras.Input(SHAPE)
    logits = keras.layers.Dense(10, name="my logits")(keras.layers.Flatten()(image))
    with pytest.raises(HarpError, match="Dense 'my logits'"):
        models.load_or_build(saved(keras.Model(image, logits), tmp_path), SHAPE, 10)
    with pytest.raises(HarpError, match="one in a dict"):
        models.load_or_build(saved(keras.Model(image, {"logits": logits}), tmp_path), SHAPE, 10)


def test_width_and_depth_are_for_the_own_models(tmp_path):
    path = saved(network(keras.layers.Dense(10)), tmp_path)
    with pytest.raises(HarpError, match="Leave them out"):
        models.load_or_build(path, SHAPE, 10, width=2.0)


def test_other_image_shape(tmp_path):
    path = saved(network(keras.layers.Dense(10)), tmp_path)
    with pytest.raises(HarpError, match=r"inputs of shape \(None, 8, 8, 1\).*images of shape \(None, 28, 28, 1\)"):
        models.load_or_build(path, (28, 28, 1), 10)


def test_free_image_size_is_accepted(tmp_path):
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    path = saved(keras.Sequential([keras.Input((None, None, 1)), *layers]), tmp_path)
    assert models.load_or_build(path, (28, 28, 1), 10)[1]


def test_other_number_of_classes(tmp_path):
    path = saved(network(keras.layers.Dense(10)), tmp_path)
    with pytest.raises(HarpError, match=r"outputs of shape \(None, 10\); the data set has 100 classes"):
        models.load_or_build(path, SHAPE, 100)


def functional_softmax():
    image = keras.Input(SHAPE)
    return keras.Model(image, keras.ops.softmax(keras.layers.Dense(10)(keras.layers.Flatten()(image))))


def nested_softmax():
    image = keras.Input(SHAPE)
    inner = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")], name="inner")
    return keras.Model(image, inner(keras.layers.Flatten()(image)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(keras.layers.Dense(10, activation="softmax")),
        lambda: network(keras.layers.Dense(10, activation="sigmoid")),
        lambda: network(keras.layers.Dense(10), keras.layers.Softmax()),
        lambda: network(keras.layers.Dense(10), keras.layers.Activation("softmax")),
        lambda: network(keras.layers.Dense(10), keras.layers.Activation("sigmoid")),
        lambda: network(keras.layers.Dense(10), keras.layers.Softmax(), keras.layers.Reshape((10,))),
        functional_softmax,
        nested_softmax,
    ],
    ids=["dense softmax", "dense sigmoid", "layer", "activation", "sigmoid", "hidden", "operation", "nested"],
)
def test_probabilities_are_refused(make, tmp_path):
    with pytest.raises(HarpError, match="returns probabilities.*activation=None"):
        models.load_or_build(saved(make(), tmp_path), SHAPE, 10)


def test_zero_logits_are_no_probabilities(tmp_path):
    path = saved(network(keras.layers.Dense(10, kernel_initializer="zeros")), tmp_path)
    assert models.load_or_build(path, SHAPE, 10)[1]


def test_a_changed_bit_in_the_weights_is_noticed(tmp_path):
    path = saved(models.build("cnn_digits", SHAPE, 10, width=0.25), tmp_path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    data = bytearray(open(path, "rb").read())
    data[data.index(weights) + len(weights) * 3 // 4] ^= 1
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(HarpError, match="CRC"):
        models.load_or_build(path, SHAPE, 10)


def test_a_model_that_would_fill_the_memory_is_not_run(tmp_path):
    layers = [keras.layers.ZeroPadding2D(20_000), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    path = saved(keras.Sequential([keras.Input((None, None, 1)), *layers]), tmp_path)
    with pytest.raises(HarpError, match="values at once for one image.*enlarges the image"):
        models.load_or_build(path, SHAPE, 10)
