import keras
import numpy as np
import pytest

from harp_tf import models
from harp_tf.types import HarpError

FORMS = {
    "cnn_digits": ((8, 8, 1), 10, 230_544),
    "mobile_sparse": ((96, 96, 3), 10, 541_184),
    "vgg28": ((28, 28, 1), 10, 429_968),
    "vgg16_bn": ((32, 32, 3), 10, 14_715_584),
    "resnet18": ((32, 32, 3), 10, 11_164_352),
    "wrn_28_4": ((32, 32, 3), 10, 5_841_840),
    "resnet50": ((224, 224, 3), 1000, 25_502_912),
}


def random_images(shape, count=2):
    return np.random.default_rng(0).random((count, *shape), dtype=np.float32)


def prunable_weights(model):
    return {layer.name: int(np.prod(layer.kernel.shape)) for layer in model.layers if hasattr(layer, "kernel")}


def test_every_model_is_tested():
    assert sorted(models.names()) == sorted(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_model_at_its_own_shape(name):
    shape, classes, weights = FORMS[name]
    model = models.build(name, shape, classes)
    assert sum(prunable_weights(model).values()) == weights
    assert model.input_shape == (None, *shape)
    logits = keras.ops.convert_to_numpy(model(random_images(shape), training=False))
    assert logits.shape == (2, classes) and logits.dtype == np.float32
    assert np.all(np.isfinite(logits)) and logits.min() < 0
    assert not np.allclose(logits[0], logits[1])
    assert model.layers[-1].name == "logits" and model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("name", FORMS)
def test_convolutions_have_no_bias_and_every_layer_a_name(name):
    shape, classes, _ = FORMS[name]
    model = models.build(name, shape, classes, width=0.125)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert convolutions and all(not layer.use_bias for layer in convolutions)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) >= len(convolutions) - 3  # pre-activated shortcuts have none of their own
    default_names = ("conv2d", "dense_", "batch_normalization", "re_lu", "max_pooling", "add_", "input_layer")
    assert not [layer.name for layer in model.layers if layer.name.startswith(default_names)]


@pytest.mark.parametrize("name", FORMS)
def test_the_seed_fixes_every_weight(name):
    shape, classes, _ = FORMS[name]
    first, same, other = (models.build(name, shape, classes, width=0.125, seed=s).get_weights() for s in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other))


def test_kernels_of_one_model_differ():
    model = models.build("resnet18", (32, 32, 3), 10, width=0.125)
    one = model.get_layer("stage1_block1_conv1").kernel
    two = model.get_layer("stage1_block1_conv2").kernel
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("name", FORMS)
def test_depth_repeats_layers_and_keeps_the_output(name):
    shape, classes, _ = FORMS[name]
    once = models.build(name, shape, classes, width=0.0625)
    twice = models.build(name, shape, classes, width=0.0625, depth=2)
    assert len(prunable_weights(twice)) > 1.5 * len(prunable_weights(once)) - 2
    assert twice.output_shape == once.output_shape


def test_width_multiplies_channels():
    weights = prunable_weights(models.build("vgg28", (28, 28, 1), 10, width=2))
    assert weights["conv1"] == 9 * 32
    assert weights["conv2"] == 9 * 32 * 64
    assert weights["dense1"] == 9 * 256 * 256
    assert weights["logits"] == 256 * 10


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_normalised_inside(channels):
    model = models.build("cnn_digits", (8, 8, channels), 10)
    layer = model.get_layer("normalise")
    values = keras.ops.convert_to_numpy(layer(np.stack([np.zeros((8, 8, channels)), np.ones((8, 8, channels))])))
    assert np.all(values[0] < 0) and np.all(values[1] > 0)
    assert np.abs(values).max() < 3
    if channels == 3:
        mean = np.broadcast_to(np.float32([0.485, 0.456, 0.406]), (1, 8, 8, 3))
        np.testing.assert_allclose(layer(mean), 0, atol=1e-6)


def test_batch_norm_statistics_stay_in_inference_mode_and_move_in_training_mode():
    model = models.build("cnn_digits", (8, 8, 1), 10)
    before = model.get_layer("bn1").moving_mean.numpy()
    model(random_images((8, 8, 1), 8), training=False)
    assert np.array_equal(before, model.get_layer("bn1").moving_mean)
    model(random_images((8, 8, 1), 8), training=True)
    assert not np.array_equal(before, model.get_layer("bn1").moving_mean)


@pytest.mark.parametrize("name", ["cnn_digits", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_model_is_saved_and_loaded_in_safe_mode(name, tmp_path):
    shape, classes, _ = FORMS[name]
    model = models.build(name, shape, classes, width=0.25)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    images = random_images(shape)
    np.testing.assert_array_equal(model(images, training=False), loaded(images, training=False))


@pytest.mark.parametrize("name", ["cnn_digits", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_model_is_converted_to_tflite(name):
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    shape, classes, _ = FORMS[name]
    model = models.build(name, shape, classes, width=0.125)
    interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    interpreter.allocate_tensors()
    images = random_images(shape, 1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(logits, model(images, training=False), atol=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("vgg17", (32, 32, 3), 10, {}), "Unknown model 'vgg17'.*cnn_digits.*wrn_28_4"),
        (("vgg16_bn", (28, 28, 1), 10, {}), "at least 32x32 pixels, received shape"),
        (("vgg28", (28, 28), 10, {}), "height, width, channels"),
        (("vgg28", (28, 28, 1), 1, {}), "at least 2 classes"),
        (("vgg28", (28, 28, 1), 10, {"width": 0.0}), "width must be a positive"),
        (("vgg28", (28, 28, 1), 10, {"width": float("nan")}), "width must be a positive"),
        (("vgg28", (28, 28, 1), 10, {"depth": 0}), "depth must be a whole number"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    name, shape, classes, options = arguments
    with pytest.raises(HarpError, match=message):
        models.build(name, shape, classes, **options)
