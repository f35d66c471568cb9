"""Which rule holds for which call, and what is left alone."""

import keras
import pytest
from keras import layers

from harp_tf.compaction.nodes import nodes_of
from harp_tf.compaction.rule import LeftAlone
from harp_tf.compaction.rules import left_alone, rules_of
from harp_tf.layers.graph import graph_of


def reasons(image, output):
    return left_alone(rules_of(nodes_of(graph_of(keras.Model(image, output)))))


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda x: layers.LayerNormalization(name="it")(x), "LayerNormalization: no rule is known"),
        (lambda x: layers.Softmax(name="it")(x), "Softmax: no rule is known"),
        (lambda x: layers.Conv2D(6, 3, groups=3, name="it")(x), "Conv2D: a grouped convolution"),
        (lambda x: layers.Dense(6, activation="softmax", name="it")(x), "Dense: its activation works across channels"),
        (lambda x: layers.MaxPooling2D(data_format="channels_first", name="it")(x), "its channels come first"),
        (lambda x: layers.BatchNormalization(name="it")(x, training=True), "called with further arguments"),
        (lambda x: layers.UpSampling2D(2, interpolation="bicubic", name="it")(x), "bicubic interpolation"),
        (lambda x: layers.Permute((3, 1, 2), name="it")(x), "Permute: no rule is known"),
    ],
)
def test_what_is_left_alone_is_named(make, reason):
    image = keras.Input((6, 6, 3))
    found = reasons(image, make(image))
    assert set(found) == {"it"} and reason in found["it"]


def test_the_same_calls_in_other_forms_are_known():
    image = keras.Input((6, 6, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3)(image), training=False)
    x = keras.ops.relu(x) * 0.5 + 1.0
    assert reasons(image, layers.Add()([x, 2.0 / (1.0 + keras.ops.exp(-x))])) == {}


def test_an_array_among_the_arguments_is_not_understood():
    image = keras.Input((6, 6, 3))
    (reason,) = reasons(image, image * keras.ops.ones((3,))).values()
    assert reason == "Multiply: called with further arguments"


def test_open_numbers_of_channels():
    image = keras.Input((6, 6, None))
    (reason,) = reasons(image, layers.ReLU()(image)).values()
    assert reason == "ReLU: its number of channels is open"


def test_calls_that_lead_nowhere_are_dropped():
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 3, name="used")(image)
    inner = keras.Model(image, [x, layers.Softmax()(x)])
    outer = keras.Input((6, 6, 3))
    nodes = nodes_of(graph_of(keras.Model(outer, inner(outer)[0])))
    assert [node.operation.name for node in nodes] == ["used"]
    assert not any(isinstance(rule, LeftAlone) for rule in rules_of(nodes).values())
