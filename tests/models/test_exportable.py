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


class Scale(layers.Layer):
    def __init__(self, weight, **options):
        super().__init__(**options)
        self.weight = weight

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name=self.weight, trainable=self.trainable)

    def call(self, x):
        return x * self.scale


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("name, allowed", [("my scale", False), ("skalé", False), ("a:b", False), ("_a-1.b>c", True)])
def test_names_of_weights(name, allowed, trainable):
    model = keras.Sequential([keras.Input((4,)), keras.Sequential([Scale(name, name="own", trainable=trainable)])])
    if allowed:
        return require_exportable(model, "it")
    with pytest.raises(HarpError, match=f"Model 'it' holds the weight .*own/{name}'.*in add_weight"):
        require_exportable(model, "it")


def test_names_that_it_allows():
    require_exportable(made("image-rgb", "1.conv_a", "Net>2", ".x"), "it")
