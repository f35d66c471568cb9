"""Data on which a training would be silently wrong is refused before its first step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD
from harp_tf.training import AdversarialModel, check_batch, only_class
from harp_tf.training.input_checks import check_first_batch
from harp_tf.types import HarpError


class Batches(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.batch = images, labels

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


SOURCES = {
    "arrays": lambda images, labels: (images, labels),
    "tensors": lambda images, labels: (tf.constant(images), tf.constant(labels)),
    "tf.data": lambda images, labels: (tf.data.Dataset.from_tensor_slices((images, labels)).batch(8),),
    "weighted": lambda images, labels: (
        tf.data.Dataset.from_tensor_slices((images, labels, np.ones(len(images)))).batch(8),
    ),
    "PyDataset": lambda images, labels: (Batches(images, labels),),
}


@pytest.fixture(params=SOURCES.values(), ids=SOURCES.keys())
def source(request):
    return request.param


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(8, 2, 2, 1)).astype("float32")


@pytest.fixture
def labels():
    return np.arange(8) % 3


def test_good_data_passes(network, images, labels, source):
    check_first_batch(network, *source(images, labels))
    check_first_batch(network, *source(images, labels[:, None].astype("float32")))


def test_images_of_8_bits(network, images, labels, source):
    with pytest.raises(HarpError, match=r"in \[0, 1\], received values from 0 to 255. Divide 8-bit images by 255"):
        check_first_batch(network, *source(np.linspace(0, 255, 32).reshape(8, 2, 2, 1).astype("uint8"), labels))


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), float("inf")])
def test_images_outside_the_box(network, images, labels, value):
    images[3, 1, 0, 0] = value
    with pytest.raises(HarpError, match="Images must be finite and in"):
        check_batch(network, images, labels)


def test_one_hot_labels(network, images, labels, source):
    with pytest.raises(HarpError, match=r"received shape \(8, 3\).*labels.argmax\(-1\)"):
        check_first_batch(network, *source(images, np.eye(3)[labels]))


def test_labels_between_classes(network, images, labels):
    with pytest.raises(HarpError, match="Labels must be one class index per image"):
        check_batch(network, images, labels + 0.5)


@pytest.mark.parametrize("shift, found", [(1, "1 to 3"), (-1, "-1 to 1")])
def test_labels_out_of_range(network, images, labels, source, shift, found):
    with pytest.raises(HarpError, match=f"from 0 to 2 for a network with 3 outputs, received values from {found}"):
        check_first_batch(network, *source(images, labels + shift))


def test_every_label_of_an_array_is_looked_at(network, images):
    images, labels = np.tile(images, (50, 1, 1, 1)), np.zeros(400, int)
    check_first_batch(network, images, labels)
    labels[-1] = 7
    with pytest.raises(HarpError, match="received values from 0 to 7"):
        check_first_batch(network, images, labels)


def test_softmax_outputs(network, images, labels, source):
    softmax = keras.Sequential([network, keras.layers.Softmax()])
    with pytest.raises(HarpError, match="returns probabilities .* must return logits"):
        check_first_batch(softmax, *source(images, labels))


def test_a_dataset_without_labels(network, images):
    with pytest.raises(HarpError, match=r"There are no labels. Pass fit\(images, labels\)"):
        check_first_batch(network, tf.data.Dataset.from_tensor_slices(images).batch(4))


def test_a_generator_keeps_its_first_batch(network, images, labels):
    batches = iter([(images, labels)])
    check_first_batch(network, batches)
    assert len(list(batches)) == 1


@pytest.mark.parametrize("call", ["fit", "evaluate", "validation"])
def test_the_first_batch_of_a_generator_is_looked_at_and_trained_on(network, images, labels, call):
    trainer = AdversarialModel(network, attack=PGD(eps=0.1, steps=1))
    trainer.compile("sgd")

    def run(images, labels):
        seen = []

        def batches():
            for number in range(3):
                seen.append(number)
                yield images, labels

        if call == "fit":
            trainer.fit(batches(), steps_per_epoch=3, epochs=1, verbose=0)
        elif call == "evaluate":
            trainer.evaluate(batches(), steps=3, verbose=0)
        else:
            valid = images / images.max()
            trainer.fit(valid, labels * 0, validation_data=batches(), validation_steps=3, epochs=1, verbose=0)
        return seen

    assert run(images, labels) == [0, 1, 2]
    with pytest.raises(HarpError, match="Images must be finite and in"):
        run(255 * images, labels)
    with pytest.raises(HarpError, match="Turn one-hot labels into indices"):
        run(images, np.eye(3)[labels])


def test_a_network_of_one_answer_is_told_of(network, images):
    many, labels = np.random.default_rng(0).random((70, *images.shape[1:]), np.float32), np.arange(70) % 3
    assert only_class(network, many, labels) == ""
    network.layers[-1].set_weights([0 * v for v in network.layers[-1].get_weights()[:1]] + [np.array([0.0, 1.0, 0.0])])
    assert "all of the first 64 images the same class, 1." in only_class(network, many, labels)
    assert only_class(network, many, 0 * labels) == ""  # then it may be right


@pytest.mark.parametrize("layer", [keras.layers.RandomTranslation(0.1, 0.1), keras.layers.RandomFlip()])
def test_layers_that_move_pixels_are_warned_of(layer):
    inner = keras.Sequential([keras.Input((4, 4, 1)), layer])
    network = keras.Sequential([keras.Input((4, 4, 1)), inner, keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.warns(UserWarning, match=f"changes its training images inside, in {layer.name}. .*in tf.data"):
        AdversarialModel(network, attack=PGD(eps=0.1))


def test_layers_that_move_nothing_are_not(network, recwarn):
    noisy = keras.Sequential([keras.Input(network.input_shape[1:]), keras.layers.GaussianNoise(0.1), network])
    AdversarialModel(noisy, attack=PGD(eps=0.1))
    assert not [warning for warning in recwarn if "changes its training images" in str(warning.message)]


def test_the_network_sees_fewer_images_than_a_small_batch_has(images):
    """Of a large network, an uncompiled pass of 32 images took more memory than the training in batches of 8."""
    sizes = []

    def network(batch, training):
        sizes.append(len(batch))
        return tf.zeros([len(batch), 3])

    check_batch(network, np.tile(images, (50, 1, 1, 1)), np.zeros(400, int))
    assert sizes == [2]
