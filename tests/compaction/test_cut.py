"""Networks whose outputs do not depend on their images are told from others, and where they lose them."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compaction import compact, cut_at
from harp_tf.types import HarpError


def chain(first: np.ndarray, second: np.ndarray) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation="relu", name="first"),
            layers.Dense(3, activation="relu", name="second"),
            layers.Dense(2, name="logits"),
        ]
    )
    model.get_layer("first").kernel.assign(first)
    model.get_layer("second").kernel.assign(second)
    model.get_layer("second").bias.assign([0.1, 0.2, 0.3])
    return model


ALIVE = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]], np.float32)  # its first channel
READS_FIRST = np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32)
READS_SECOND = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)


def test_a_layer_that_reads_dead_channels_only_cuts_the_network(capsys):
    model = chain(ALIVE, READS_SECOND)
    images = np.random.default_rng(0).random((8, 4), np.float32)
    assert np.ptp(model.predict(images, verbose=0), axis=0).max() == 0
    assert cut_at(model) == ["second"]
    compact(model)
    assert "cut in two at second: the outputs are the same for every input" in capsys.readouterr().out


@pytest.mark.parametrize("model", [chain(ALIVE, READS_FIRST), chain(0 * ALIVE + 1, READS_SECOND)])
def test_one_path_is_enough(model, capsys):
    assert cut_at(model) == []
    compact(model)
    assert "cut in two" not in capsys.readouterr().out


@pytest.mark.parametrize("dead", [(), ("left",), ("right",), ("left", "right")])
def test_of_several_paths_all_must_end(dead):
    images = keras.Input((6, 6, 1))
    left = layers.Conv2D(4, 3, padding="same", name="left")(images)
    right = layers.Conv2D(4, 3, padding="same", name="right")(images)
    features = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([left, right])))
    model = keras.Model(images, layers.Dense(2)(features))
    for name in dead:
        model.get_layer(name).kernel.assign(np.zeros((3, 3, 1, 4)))
    assert cut_at(model) == (["left", "right"] if len(dead) == 2 else [])


def test_what_has_no_graph_is_refused():
    with pytest.raises(HarpError, match="subclass"):

        class Own(keras.Model):
            pass

        cut_at(Own())
