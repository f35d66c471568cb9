"""Latency of files beside each other."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import TFLiteClassifier, to_tflite
from harp_tf.deploy.bench import latency, litert_benchmark
from harp_tf.types import HarpError


def _file(units: int) -> bytes:
    return to_tflite(keras.Sequential([keras.Input((64,)), layers.Dense(units), layers.Dense(2000), layers.Dense(4)]))


def test_a_larger_network_takes_longer_with_any_number_of_threads():
    lines = []
    found = latency({"small": _file(4), "large": _file(3000)}, threads=(1, 2), runs=40, progress=lines.append)
    assert [(row.name, row.threads, row.runs) for row in found] == [
        ("small", 1, 40),
        ("large", 1, 40),
        ("small", 2, 40),
        ("large", 2, 40),
    ]
    for small, large in ((found[0], found[1]), (found[2], found[3])):
        assert 0 < small.p10_ms <= small.median_ms <= small.p90_ms
        assert large.median_ms > 5 * small.median_ms
        assert small.ratio == 1.0 and large.ratio > 5
    assert len(lines) == 2 and "1 thread(s): small" in lines[0]


def test_the_interpreter_still_classifies_after_timing():
    classifier = TFLiteClassifier(_file(4))
    images = np.random.default_rng(0).random((3, 64), np.float32)
    before = classifier.logits(images)
    assert len(classifier.seconds(images[:1], 3)) == 3
    np.testing.assert_array_equal(classifier.logits(images), before)


@pytest.mark.slow
def test_the_benchmark_of_ai_edge_litert_agrees():
    small, large = (litert_benchmark(_file(units), runs=30) for units in (4, 12000))
    assert small is not None and large is not None and 0 <= small < large


def test_a_file_that_it_cannot_run_has_no_time(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(_file(4)[:500])
    assert litert_benchmark(path, runs=20) is None


def test_an_open_image_size_is_refused():
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(HarpError, match="images of one size, it takes .*-1, -1, 3"):
        latency({"it": to_tflite(model)})


@pytest.mark.parametrize(("files", "runs"), [({}, 100), ({"a": b""}, 3)])
def test_too_little_to_time_is_refused(files, runs):
    with pytest.raises(HarpError, match="Timing needs at least one file and 20 runs"):
        latency(files, runs=runs)
