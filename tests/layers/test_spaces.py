"""Which channels are the same, in every way in which layers can share them."""

import keras
import pytest
from keras import layers

from harp_tf.layers.part import Part
from harp_tf.layers.rebuild import walk
from harp_tf.layers.registry import kernels_of
from harp_tf.layers.spaces import Spaces, find_spaces
from harp_tf.types import HarpError
from tests.layers import topologies


def spaces_of(model: keras.Model) -> Spaces:
    return find_spaces(model, [path for path, layer in walk(model) if kernels_of(type(layer))])


def reads(model: keras.Model) -> dict[str, list]:
    return {path: [part.as_list() for part in parts] for path, parts in spaces_of(model).reads.items()}


def whole(name: str | None, channels: int) -> list:
    return [[1, [name, channels]]]


def test_a_chain_and_a_flattened_image():
    assert reads(topologies.chain()) == {
        "conv1": whole(None, 3),
        "conv2": whole("conv2/inputs", 6),
        "dense": [[4, ["dense/inputs", 5]]],  # 2 x 2 pixels
        "logits": whole("logits/inputs", 7),
    }
    assert spaces_of(topologies.chain()).fixed == {"conv1": "an input of the model"}


def test_residual_shortcuts():
    assert reads(topologies.residual()) == {
        "stem": whole(None, 3),
        "a1": whole("a1/inputs", 6),
        "a2": whole("a2/inputs", 5),
        "b1": whole("a1/inputs", 6),
        "b_shortcut": whole("a1/inputs", 6),
        "b2": whole("b2/inputs", 8),
        "logits": whole("logits/inputs", 8),
    }


def test_concatenations():
    stem, grown1, grown2 = ["grow1/inputs", 6], ["grow2/inputs", 4], ["logits/inputs", 4]
    assert reads(topologies.dense_block()) == {
        "stem": whole(None, 3),
        "grow1": [[1, stem]],
        "grow2": [[1, stem], [1, grown1]],
        "logits": [[4, stem, grown1, grown2]],
    }


def test_depthwise_convolutions_belong_to_the_space():
    assert reads(topologies.inverted_residual()) == {
        "stem": whole(None, 3),
        "expand": whole("expand/inputs", 4),
        "depthwise": whole("depthwise/inputs", 12),
        "project": whole("depthwise/inputs", 12),
        "logits": whole("expand/inputs", 4),
    }


def test_gates():
    assert reads(topologies.squeeze_and_excite()) == {
        "conv": whole(None, 3),
        "squeeze": whole("squeeze/inputs", 6),
        "excite": whole("excite/inputs", 3),
        "logits": whole("squeeze/inputs", 6),
    }


def test_separable_and_transposed_convolutions():
    assert reads(topologies.separable()) == {
        "first": whole(None, 3),
        "second": whole("second/inputs", 6),
        "up": whole("up/inputs", 5),
        "logits": [[64, ["logits/inputs", 4]]],
    }


def test_nested_and_shared_layers():
    # The nested model reads what the stem makes and, called again, what it made itself.
    assert reads(topologies.nested()) == {
        "stem": whole(None, 3),
        "in/conv": whole("in/conv/inputs", 6),
        "shared": whole("shared/inputs", 6),
        "logits": [[1, ["logits/inputs", 5]], [1, ["logits/inputs_2", 5]]],
    }


def test_several_inputs_and_outputs():
    assert reads(topologies.two_inputs()) == {
        "conv": whole(None, 3),
        "embed": whole(None, 5),
        "both": [[1, ["both/inputs", 6]], [1, ["both/inputs_2", 4]]],
        "logits": whole("logits/inputs", 7),
        "other": whole("logits/inputs", 7),
    }


def test_an_addition_cuts_what_it_adds_to():
    image = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(4, 1, name="a")(image), layers.Conv2D(2, 1, name="b")(image)
    c = layers.Conv2D(6, 1, name="c")(image)
    x = layers.Add()([layers.Concatenate()([a, b]), c])
    x = layers.Conv2D(5, 1, name="d")(x)
    y = layers.Conv2D(5, 1, name="e")(a)
    model = keras.Model(image, layers.Dense(3, name="f")(layers.GlobalAveragePooling2D()(x + y)))
    found = reads(model)
    assert found["d"] == [[1, ["d/inputs", 4]], [1, ["d/inputs_2", 2]]]
    assert found["e"] == [[1, ["d/inputs", 4]]]


@pytest.mark.parametrize(
    "unknown",
    [
        layers.LayerNormalization(name="unknown"),
        layers.Softmax(name="unknown"),
        layers.Permute((2, 1, 3), name="unknown"),
        layers.Reshape((8, 16, 3), name="unknown"),
        layers.GroupNormalization(2, name="unknown"),
        layers.BatchNormalization(axis=1, name="unknown"),
        layers.Activation("softmax", name="unknown"),
        layers.DepthwiseConv2D(1, depth_multiplier=2, name="unknown"),
        layers.UnitNormalization(name="unknown"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_an_unknown_operation_reads_and_makes_is_fixed(unknown):
    image = keras.Input((8, 8, 3))
    x = unknown(layers.Conv2D(6, 1, name="conv")(image))
    x = layers.Conv2D(5, 1, name="after")(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))
    found = spaces_of(model)
    assert found.fixed["after"] == f"made by unknown ({type(unknown).__name__})"
    assert found.reads["logits"] == (Part((("logits/inputs", 5),)),)


@pytest.mark.parametrize(
    "keeps",
    [
        layers.Activation("hard_swish"),
        layers.PReLU(),
        layers.GroupNormalization(6),
        layers.UpSampling2D(2),
        layers.Cropping2D(1),
        layers.Rescaling(2.0),
        layers.Resizing(4, 4),
        lambda x: keras.ops.relu(x * 2.0 - 1.0),
        lambda x: keras.ops.mean(x, axis=(1, 2), keepdims=True),
        lambda x: keras.ops.reshape(x, (-1, 16, 4, 6)),
        lambda x: layers.Concatenate(axis=1)([x, layers.ReLU()(x)]),
    ],
)
def test_what_keeps_channels(keeps):
    image = keras.Input((8, 8, 3))
    x = keeps(layers.Conv2D(6, 1, name="conv")(image))
    x = layers.Conv2D(5, 1, name="after")(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))
    assert reads(model)["after"] == whole("after/inputs", 6)


def test_a_gate_of_one_channel_is_fixed_and_what_it_gates_is_not():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1, name="conv")(image)
    x = x * layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))
    assert reads(model)["logits"] == whole("gate/inputs", 6)


def test_layers_that_are_left_alone_fix_what_they_read():
    found = find_spaces(topologies.residual(), ["a1", "a2", "b2", "logits"])
    assert found.fixed == {"a1": "read by b1, which is not pruned"}


def test_grouped_convolutions_fix_what_they_read():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1, name="conv")(image)
    x = layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))
    assert spaces_of(model).fixed["grouped"] == "read in groups by grouped"


def test_attention_and_open_sizes():
    tokens = keras.Input((5, 8))
    x = layers.Dense(6, name="embed")(tokens)
    x = x + layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    y = layers.Dense(12, activation="gelu", name="wide")(layers.LayerNormalization(name="norm")(x))
    model = keras.Model(tokens, x + layers.Dense(6, name="narrow")(y))
    found = spaces_of(model)
    assert found.reads["narrow"] == (Part((("narrow/inputs", 12),)),)
    assert found.fixed["wide"] == "made by norm (LayerNormalization)"
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(5, 1, name="second")(layers.Conv2D(6, 1, name="first")(image))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    assert reads(model)["second"] == whole("second/inputs", 6)


def test_a_subclassed_model_has_no_spaces():
    class Own(keras.Model):
        def call(self, x):
            return x

    model = Own()
    model(keras.ops.ones((1, 2)))
    with pytest.raises(HarpError, match="subclass of keras.Model .Own., whose graph is not known"):
        find_spaces(model, [])


def test_parts_as_lists():
    part = Part((("a/inputs", 4), (None, 2)), 3)
    assert part.channels == 18
    assert Part.of(part.as_list()) == part
