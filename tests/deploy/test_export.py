import errno
import os

import keras
import numpy as np
import pytest
from keras import layers

import harp_tf.deploy.export as export
from harp_tf.deploy import TFLiteClassifier, export_tflite, kernel_nonzeros
from harp_tf.deploy.inspect import file_sizes
from harp_tf.types import HarpError


@pytest.mark.parametrize("sparse", [False, True])
def test_report_describes_the_written_file(small, tmp_path, sparse):
    path = tmp_path / "model.tflite"
    report = export_tflite(small.model, path, sparse=sparse)
    assert path.read_bytes() == (small.sparse if sparse else small.dense)
    assert report.path == path
    assert (report.file_bytes, report.gzip_bytes) == file_sizes(path)
    assert list(report.kernels) == kernel_nonzeros(path)
    assert report.nonzero == sum(small.nonzeros.values())
    assert report.parameters == 3 * 9 * 16 + 16 * 9 * 32 + 512 * 64 + 64 * 10
    assert 0 <= report.max_logit_difference <= 1e-4 * max(1, small.logits.std())
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_existing_file_is_replaced_and_readable_by_others(small, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    export_tflite(small.model, str(path), check_images=small.images)
    np.testing.assert_allclose(TFLiteClassifier(path).logits(small.images), small.logits, atol=1e-4)
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_open_image_size_gets_check_images(tmp_path):
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    images = np.random.default_rng(0).random((2, 20, 9, 3), np.float32)
    np.testing.assert_allclose(TFLiteClassifier(path).logits(images), model(images), atol=1e-5)


def test_nothing_is_written_when_verification_fails(small, case, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "to_tflite", lambda model, calibration: case("residual", 0.95).dense)
    path = tmp_path / "model.tflite"
    with pytest.raises(HarpError, match="Expected the"):
        export_tflite(small.model, path)
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"old")
    with pytest.raises(HarpError, match="Expected the"):
        export_tflite(small.model, path, sparse=True)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_failing_disk_is_an_error_and_leaves_nothing(small, tmp_path, monkeypatch, function, code):
    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(export, "to_tflite", lambda model, calibration: small.dense)
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(HarpError, match=os.strerror(code)):
        export_tflite(small.model, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_an_error(small, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(HarpError, match="Permission denied"):
        export_tflite(small.model, tmp_path / "model.tflite")


def test_missing_folder_is_an_error_before_anything_is_converted(small, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "to_tflite", lambda model, calibration: pytest.fail("converted"))
    with pytest.raises(HarpError, match="existing folder"):
        export_tflite(small.model, tmp_path / "missing" / "model.tflite")


def test_path_of_a_folder_is_an_error(small, tmp_path):
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(HarpError, match="Expected to write"):
        export_tflite(small.model, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == ["model.tflite"]


@pytest.mark.parametrize("arguments", [{"check_images": 255}, {"quantize": "int8", "calibration": 255}])
def test_images_outside_the_box_are_refused(small, tmp_path, arguments):
    images = np.ones((4, *small.model.input_shape[1:]), np.float32)
    arguments = {name: value * images if isinstance(value, int) else value for name, value in arguments.items()}
    with pytest.raises(HarpError, match=r"Images must be finite and in \[0, 1\], received values from 255 to 255"):
        export_tflite(small.model, tmp_path / "model.tflite", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_model_of_a_mixed_policy_becomes_a_file_that_computes_in_float32(policy, tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, dtype=policy)(image)
    x = keras.layers.BatchNormalization(dtype=policy)(x)
    inner = keras.Input((6, 6, 8))
    x = keras.Model(inner, keras.layers.Conv2D(8, 3, dtype=policy)(inner))(x) * 0.5
    model = keras.Model(image, keras.layers.Dense(5, dtype=policy)(keras.layers.Flatten(dtype=policy)(x)))
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    before = np.array(model(images))
    report = export_tflite(model, tmp_path / "m.tflite")
    assert report.max_logit_difference < 1e-5
    found = TFLiteClassifier(report.path).logits(images)
    np.testing.assert_allclose(found, before.astype(np.float32), atol=0.05)
    after = np.array(model(images))
    assert after.dtype == before.dtype != np.float32 and np.array_equal(after, before)
