"""Subclassed models and custom layers that hold others: what works, and what an error says to do."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.layers import prune, pruned_kernels, rate_table, set_stage, strip
from harp_tf.layers.rebuild import walk
from harp_tf.types import HarpError
from tests.layers.uncopyable import Lazy, Subclass
from tests.layers.zoo import MODELS, Net, randomise

IMAGES = np.random.default_rng(0).uniform(size=(6, 8, 8, 3)).astype(np.float32)


def built(model, inputs=IMAGES):
    model(inputs)
    return model


class Grows(keras.Model):
    """Makes a layer that its configuration does not tell of."""

    def __init__(self):
        super().__init__(name="grows")
        self.dense = layers.Dense(3)

    def call(self, inputs):
        x = self.dense(inputs)
        return self.more(x) if hasattr(self, "more") else x

    def get_config(self):
        return {}


def test_names_of_layers_are_given_names_attributes_and_positions():
    assert [path for path, _ in walk(MODELS["subclassed"]())] == [
        "",  # the model itself, for its own weight
        "stem",
        "norm",
        "stage0",
        "stage1",
        "backbone/squeeze",
        "backbone/1",
        "backbone/2",
        "backbone/3",
        "pool",
        "head",
    ]


def test_the_copy_is_of_the_same_class_and_the_original_stays_as_it_is():
    model = randomise(built(Net(4)))
    outputs, weights = model(IMAGES), model.get_weights()
    pruned = prune(model, 0.5, verbose=False)
    assert isinstance(pruned, Net) and type(strip(pruned)) is Net
    assert pruned.backbone is not model.backbone and type(model.stem) is layers.Conv2D
    np.testing.assert_array_equal(model(IMAGES), outputs)
    for found, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_was_frozen_after_construction_stays_frozen():
    model = built(Net(4))
    model.backbone.trainable = False
    model.norm.trainable = False
    pruned = prune(model, 0.5, verbose=False)
    assert not any(k.path.startswith("backbone") for k in pruned_kernels(pruned))
    for network in (pruned, strip(pruned)):
        assert not network.backbone.trainable and not network.norm.trainable and network.head.trainable
        assert not network.backbone.trainable_variables and not network.norm.trainable_variables
    set_stage(pruned, "finetune")
    assert not pruned.backbone.trainable_variables and pruned.temperature.trainable


def test_it_trains_with_plain_keras_in_both_stages():
    pruned = prune(built(Net(4)), 0.5, verbose=False)
    labels = np.arange(6) % 3
    for stage, moves in (("prune", "scores"), ("finetune", "kernel")):
        set_stage(pruned, stage)
        before = {v.path: v.numpy() for v in pruned.variables}
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        pruned.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        pruned.fit(IMAGES, labels, batch_size=6, verbose=0)
        moved = {v.path.rpartition("/")[2] for v in pruned.variables if not np.array_equal(before[v.path], v)}
        assert moves in moved and not {"scores", "kernel"} - {moves} & moved
    assert float(pruned.temperature) != 1.0
    assert all(row["kept"] < row["weights"] for row in rate_table(pruned).values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: built(Subclass(3), IMAGES[:, 0, 0]),
            r"'subclass' cannot be rebuilt from its configuration \(.*Please implement `get_config\(\)`.\). Give "
            r"custom layers and models a get_config\(\)",
        ),
        (lambda: Net(4), r"'net' has no weights yet. Call it on a batch first"),
    ],
)
def test_models_that_cannot_be_copied(make, message):
    with pytest.raises(HarpError, match=message):
        prune(make(), 0.5)


def test_a_copy_with_other_layers():
    model = Grows()
    model.more = layers.Dense(2)
    built(model, IMAGES[:, 0, 0])
    with pytest.raises(
        HarpError, match=r"A copy of Grows 'grows', made .* has no layers with weights more. Make all layers in the con"
    ):
        prune(model, 0.5)
    model = Grows()
    model.more = layers.BatchNormalization()
    built(model, IMAGES[:, 0, 0])
    with pytest.raises(
        HarpError, match=r"copy of model 'grows' .* has other layers \(more\). Make all layers in the con"
    ):
        prune(model, 0.5)


def test_a_layer_that_builds_its_layers_too_late():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, Lazy(name="lazy")(inputs))
    with pytest.raises(
        HarpError, match=r"Lazy 'lazy', made .* no layers with weights late. .* build them in build\(self, inp"
    ):
        prune(model, 0.5)


def test_recurrent_layers_are_left_alone_and_named(capsys):
    inputs = keras.Input((5, 4))
    x = layers.Bidirectional(layers.LSTM(3, name="lstm"), name="both")(inputs)
    x = layers.Dense(3, name="head")(layers.Concatenate()([x, layers.GRU(2, name="gru")(inputs)]))
    pruned = prune(keras.Model(inputs, x), 0.5)
    assert [k.path for k in pruned_kernels(pruned)] == ["head/kernel"]
    text = capsys.readouterr().out
    for path, name in (("both/forward_lstm", "LSTM"), ("both/backward_lstm", "LSTM"), ("gru", "GRU")):
        assert f"not pruned: {path} (no prunable kernel is known for {name})" in text
    with pytest.raises(HarpError, match=r"unknown kind: both/forward_lstm \(LSTM\), both/backward_lstm \(LSTM\), gru"):
        prune(keras.Model(inputs, x), 0.5, strict=True)


def test_other_references_to_a_layer_see_its_mask():
    """Spectral normalisation keeps the kernel of the layer that it wraps."""
    inputs = keras.Input((5,))
    wrapped = layers.SpectralNormalization(layers.Dense(4, name="dense"), name="spectral")
    model = keras.Model(inputs, layers.Dense(3, name="head")(wrapped(inputs)))
    pruned = prune(model, 0.5, verbose=False)
    layer = pruned.get_layer("spectral")
    assert layer.kernel is layer.layer.kernel
    x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_array_equal(strip(pruned)(x), pruned(x))
