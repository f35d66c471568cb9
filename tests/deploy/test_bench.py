"""Latency of files beside each other."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import TFLiteClassifier, to_tflite
from harp_tf.deploy.bench import latency
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
    assert len(lines) == 2 and "1 thread(s): small" in lines[0]


def test_the_interpreter_still_classifies_after_timing():
    classifier = TFLiteClassifier(_file(4))
    images = np.random.default_rng(0).random((3, 64), np.float32)
    before = classifier.logits(images)
    assert len(classifier.seconds(images[:1], 3)) == 3
    np.testing.assert_array_equal(classifier.logits(images), before)


@pytest.mark.parametrize(("files", "runs"), [({}, 100), ({"a": b""}, 3)])
def test_too_little_to_time_is_refused(files, runs):
    with pytest.raises(HarpError, match="Timing needs at least one file and 20 runs"):
        latency(files, runs=runs)
