"""The combinations that TFLite's converter writes and interpreters cannot run, and what this exporter does instead."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from harp_tf.deploy import TFLiteClassifier, export_tflite, verify
from harp_tf.deploy.quiet import captured_output
from harp_tf.types import HarpError
from tests.deploy.conftest import randomise

IMAGES = np.random.default_rng(0).random((32, 8, 8, 3), np.float32)


def _model(sparsity: float) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Flatten(),
            layers.Dense(128, activation="relu", name="dense1"),
            layers.Dense(128, activation="relu", name="dense2"),
            layers.Dense(10, name="logits"),
        ]
    )
    return randomise(model, sparsity)


def _converters_own(model: keras.Model, kind: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY, tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind in ("int8", "int16x8"):
        converter.representative_dataset = lambda: ([image[None]] for image in IMAGES)
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            ops.TFLITE_BUILTINS_INT8
            if kind == "int8"
            else ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    with captured_output():
        return converter.convert()


def _works(model: keras.Model, data: bytes) -> bool:
    """Whether both interpreters load a file and give about the Keras logits; NaN does not."""
    wanted = model(IMAGES, training=False).numpy()
    try:
        errors = [TFLiteClassifier(data, xnnpack=x).logits(IMAGES) - wanted for x in (True, False)]
    except HarpError:
        return False
    return max(np.abs(error).max() for error in errors) < 0.5 * wanted.std()


@pytest.mark.parametrize(
    ("kind", "ours"), [("float16", "float16"), ("dynamic", "int8_weights"), ("int16x8", "int8")], ids=lambda kind: kind
)
def test_the_converters_sparse_files_fail_where_ours_work(kind, ours, tmp_path):
    # NaN for float16, wrong logits for the two others, without a word from converter or interpreter.
    model = _model(0.99)
    assert not _works(model, _converters_own(model, kind))
    path = tmp_path / "model.tflite"
    calibration = IMAGES if ours == "int8" else None
    report = export_tflite(model, path, sparse=True, quantize=ours, calibration=calibration, check_images=IMAGES)
    assert _works(model, path.read_bytes())
    assert report.file_bytes == path.stat().st_size


def test_such_a_file_does_not_pass_verification():
    model = _model(0.99)
    for kind, ours in (("float16", "float16"), ("dynamic", "int8_weights"), ("int16x8", "int8")):
        with pytest.raises(HarpError, match="Expected logits within|does not load|weights"):
            verify(_converters_own(model, kind), model, IMAGES, quantize=ours)


@pytest.mark.parametrize("kind", ["dynamic", "int16x8", "float8"])
def test_unsafe_kinds_cannot_be_asked_for(kind, tmp_path):
    with pytest.raises(HarpError, match="quantize must be one of float16, int8_weights, int8, received"):
        export_tflite(_model(0.9), tmp_path / "model.tflite", sparse=True, quantize=kind)
    assert not list(tmp_path.iterdir())
