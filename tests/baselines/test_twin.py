"""The Keras 2 twin of a network: the same logits, the same weights there and back, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from harp_tf import layers, models
from harp_tf.baselines import twin
from harp_tf.types import HarpError
from tests.baselines.nets import classifier, images

pytest.importorskip("tf_keras")


def twin_of(dense, **settings):
    return twin.Twin(layers.prune(dense, 0.5, verbose=False, **settings))


@pytest.mark.parametrize("name", ["cnn_digits", "vgg28", "resnet18", "mobile_sparse"])
def test_logits_of_the_zoo(name):
    size = 16 if name == "mobile_sparse" else 8
    dense = models.build(name, (size, size, 3), 5, width=0.1)
    found = twin_of(dense)
    found.check(dense)
    pictures = np.random.default_rng(1).random((3, size, size, 3), np.float32)
    np.testing.assert_allclose(found.model(pictures, training=False), dense(pictures, training=False), atol=1e-4)


def test_weights_and_statistics_go_over_and_back():
    network = layers.prune(classifier(), 0.5, verbose=False)
    found = twin.Twin(network)
    assert len(found.pairs) == len(classifier().weights)
    before = [np.asarray(own) for own, _ in found.pairs]
    found.model(images(32)[0], training=True)  # moves the statistics of batch normalisation
    found.give()
    changed = [own.path for (own, _), old in zip(found.pairs, before) if (np.asarray(own) != old).any()]
    assert [path.rpartition("/")[2] for path in changed] == ["moving_mean", "moving_variance"]
    for own, old in zip((own for own, _ in found.pairs), before):
        own.assign(old + 1)
    found.take()
    for own, other in found.pairs:
        np.testing.assert_array_equal(own, other)


def test_a_layer_that_is_used_twice_has_one_twin():
    image = keras.Input((4, 4, 1))
    shared = kl.Dense(4, name="shared")
    x = kl.Add(name="add")([shared(kl.Flatten()(image)), shared(kl.Flatten()(image))])
    dense = keras.Model(image, kl.Dense(3)(x))
    found = twin_of(dense)
    found.check(dense)
    assert len(found.pairs) == 4


@keras.saving.register_keras_serializable("tests_of_twins")
class Doubled(kl.Layer):
    def call(self, inputs):
        return 2 * inputs


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Doubled(name="mine"), "Keras 2 has no Doubled like 'mine'"),
        (kl.Dense(4, kernel_regularizer="l2", name="mine"), "'mine' has a kernel_regularizer"),
        (kl.Dense(4, dtype="mixed_bfloat16", name="mine"), "'mine' computes in bfloat16, not in float32"),
        (kl.Dense(4, activation=Doubled(), name="mine"), "'mine' has an activation of its own"),
        (
            kl.Activation("hard_sigmoid", name="mine"),
            "computes other logits in Keras 2",
        ),  # x / 6 + 0.5, once 0.2 x + 0.5
    ],
)
def test_what_has_no_faithful_twin_is_refused(layer, words):
    dense = keras.Sequential([keras.Input((4, 4, 1)), kl.Flatten(), layer, kl.Dense(3, dtype="float32")])
    with pytest.raises(HarpError, match=words):
        twin_of(dense).check(dense)


def test_a_missing_package():
    with pytest.raises(HarpError, match=r"needs no_such_package .* pip install .tensorflow-model-optimization"):
        twin.require("no_such_package")
