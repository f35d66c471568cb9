"""Reshapes that keep the batch dimension need no computed shape."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import TFLiteClassifier, to_tflite
from harp_tf.deploy.flatbuffer import operator_name, read_model


def operators(data):
    file = read_model(data)
    return [operator_name(file, operator) for operator in file.subgraphs[0].operators]


def model_of(*body):
    return keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3), *body])


@pytest.mark.parametrize("xnnpack", [True, False])
@pytest.mark.parametrize(
    "body, wanted",
    [
        ([layers.Flatten(), layers.Dense(5)], ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]),
        (
            [layers.Reshape((4, 16)), layers.Conv1D(2, 1), layers.Flatten()],
            ["CONV_2D", "RESHAPE", "CONV_2D", "RESHAPE"],
        ),
    ],
    ids=["flatten", "reshape"],
)
def test_no_shape_is_computed_and_any_batch_runs(body, wanted, xnnpack):
    model = model_of(*body)
    data = to_tflite(model)
    assert [name for name in operators(data) if name in ("SHAPE", "PACK", "STRIDED_SLICE", *wanted)] == wanted
    images = np.random.default_rng(0).random((7, 6, 6, 3), np.float32)
    classifier = TFLiteClassifier(data, xnnpack=xnnpack)
    for count in (1, 7, 2):
        np.testing.assert_allclose(classifier.logits(images[:count]), model(images[:count]), atol=1e-5)


def test_an_int8_file_too():
    images = np.random.default_rng(0).random((16, 6, 6, 3), np.float32)
    model = model_of(layers.Flatten(), layers.Dense(5))
    data = to_tflite(model, calibration=images)
    assert "SHAPE" not in operators(data)
    np.testing.assert_allclose(TFLiteClassifier(data).logits(images), model(images), atol=0.1)


def test_a_shape_that_depends_on_the_image_is_left_alone():
    image = keras.Input((None, 6, 3))
    x = layers.GlobalAveragePooling1D()(layers.Reshape((-1, 3))(image))
    model = keras.Model(image, layers.Dense(4)(x))
    images = np.random.default_rng(0).random((2, 5, 6, 3), np.float32)
    np.testing.assert_allclose(TFLiteClassifier(to_tflite(model)).logits(images), model(images), atol=1e-5)
