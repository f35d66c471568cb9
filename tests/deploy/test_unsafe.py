"""The combinations that TFLite's converter writes and interpreters cannot run, and what this exporter does instead."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from harp_tf.deploy import TFLiteClassifier, export_tflite, quantize_weights, sparse, sparsify, to_tflite, verify
from harp_tf.deploy.flatbuffer import read_model, write_model
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
    ("kind", "ours", "sparsity"),
    [
        ("float16", "float16", 0.99),  # NaN
        ("dynamic", "int8_weights", 0.99),  # wrong logits, as the next one
        ("int16x8", "int8", 0.99),
        ("int8", "int8", 0.9),  # does not load
    ],
)
def test_the_converters_sparse_files_fail_where_ours_work(kind, ours, sparsity, tmp_path):
    model = _model(sparsity)
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


# In a process of its own, because XNNPACK reads beyond the end of the weights.
_RUN = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
image = interpreter.get_input_details()[0]
interpreter.set_tensor(image["index"], np.load(sys.argv[2])[:1])
interpreter.invoke()
np.save(sys.argv[2], interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


def _logits_of_another_process(data: bytes, folder) -> np.ndarray | None:
    model, arrays = folder / "model.tflite", folder / "arrays.npy"
    model.write_bytes(data)
    np.save(arrays, IMAGES)
    done = subprocess.run([sys.executable, "-c", _RUN, model, arrays], capture_output=True, timeout=100, check=False)
    return np.load(arrays) if done.returncode == 0 else None


def test_quantised_transposed_convolutions_stay_dense(monkeypatch, tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2DTranspose(32, 3, padding="same", activation="relu")(layers.Conv2D(32, 3)(image))
    model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    dense = quantize_weights(to_tflite(randomise(model, 0.9)), "float16")
    wanted = model(IMAGES[:1], training=False).numpy()
    np.testing.assert_allclose(_logits_of_another_process(sparsify(dense), tmp_path), wanted, rtol=0, atol=0.05)
    monkeypatch.setattr(sparse, "_safe_when_quantised", lambda *arguments: True)
    logits = _logits_of_another_process(sparsify(dense), tmp_path)
    assert logits is None or not np.allclose(logits, wanted, rtol=0, atol=0.05)


def test_sparse_fully_connected_operators_are_kept_from_xnnpack_by_their_version(tmp_path):
    model = _model(0.99)
    data = sparsify(to_tflite(model))
    file = read_model(data)
    assert 8 in {code.version for code in file.operatorCodes}
    wanted = model(IMAGES[:1], training=False).numpy()
    np.testing.assert_allclose(_logits_of_another_process(data, tmp_path), wanted, rtol=0, atol=1e-4)
    for code in file.operatorCodes:
        code.version = 1
    logits = _logits_of_another_process(write_model(file), tmp_path)
    assert logits is None or not np.allclose(logits, wanted, rtol=0, atol=1e-2)
