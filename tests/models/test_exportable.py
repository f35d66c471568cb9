"""Models that no .tflite file can be made of are told before they are trained."""

import keras
import pytest
from keras import layers

from harp_tf.models.exportable import require_exportable
from harp_tf.types import HarpError


def made(image="image", layer="conv", model="net", nested="block"):
    inputs = keras.Input((8, 8, 1), name=image)
    x = layers.Conv2D(2, 3, name=layer)(inputs)
    inner = keras.Input((6, 6, 2))
    x = keras.Model(inner, layers.ReLU()(inner), name=nested)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)), name=model)


@pytest.mark.parametrize(
    "names, message",
    [
        ({"image": "input image"}, "InputLayer 'input image'"),
        ({"layer": "convé"}, "Conv2D 'convé'"),
        ({"layer": "_conv"}, "Conv2D '_conv'"),
        ({"model": "net(v2)"}, r"Functional 'net\(v2\)'"),
        ({"nested": "block:1"}, "Functional 'block:1'"),
    ],
)
def test_names_that_tensorflow_does_not_allow(names, message):
    with pytest.raises(HarpError, match=f"Model 'it' holds {message}.*Give it a name="):
        require_exportable(made(**names), "it")


def test_names_that_it_allows():
    require_exportable(made("image-rgb", "1.conv_a", "Net>2", ".x"), "it")
