import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.deploy import TFLiteClassifier
from harp_tf.deploy.quiet import captured_output
from harp_tf.types import HarpError


def test_batches_of_changing_size_agree_with_single_images(small):
    classifier = TFLiteClassifier(small.sparse, num_threads=2)
    images = np.random.default_rng(2).random((130, 12, 12, 3), np.float32)
    logits = classifier.logits(images)
    assert logits.shape == (130, 10)
    assert logits.dtype == np.float32
    for index in (0, 64, 129):
        np.testing.assert_allclose(classifier.logits(images[index : index + 1])[0], logits[index], atol=1e-5)


def test_result_is_not_overwritten_by_the_next_call(small):
    classifier = TFLiteClassifier(small.dense)
    first = classifier.logits(small.images[:1])
    kept = first.copy()
    classifier.logits(small.images[1:2])
    np.testing.assert_array_equal(first, kept)


def test_runs_from_a_path_and_quietly(small, tmp_path, capfd):
    path = tmp_path / "model.tflite"
    path.write_bytes(small.dense)
    np.testing.assert_allclose(TFLiteClassifier(path).logits(small.images), small.logits, atol=1e-4)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("shape", [(12, 12, 3), (2, 12, 12, 1), (2, 3, 12, 12), (0, 12, 12, 3)])
def test_images_of_another_shape_are_refused(small, shape):
    with pytest.raises(HarpError, match=r"\[n >= 1, 12, 12, 3\]"):
        TFLiteClassifier(small.dense).logits(np.zeros(shape, np.float32))


@pytest.mark.parametrize("xnnpack", [True, False])
def test_damaged_file_is_refused(small, xnnpack):
    with pytest.raises(HarpError, match="does not load under"):
        TFLiteClassifier(small.dense[: len(small.dense) // 2], xnnpack=xnnpack)


def test_file_with_two_inputs_is_refused():
    left, right = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([left, right], keras.layers.Dense(2)(keras.layers.Add()([left, right])))
    with captured_output():
        data = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    with pytest.raises(HarpError, match="one float32 input"):
        TFLiteClassifier(data)
