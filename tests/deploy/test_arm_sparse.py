"""Which files run sparse on ARM. The verdicts were compared with emulated ARM; with HARP_AARCH64 some are again."""

import os
import re
import subprocess

import keras
import numpy as np
import pytest
from keras import layers

import harp_tf
from harp_tf import models
from harp_tf.deploy import TFLiteClassifier, arm_sparse_report, quantize_weights, sparse, sparsify, to_tflite
from harp_tf.deploy.arm_safety import prevent_partial_sparse
from harp_tf.deploy.flatbuffer import read_model
from harp_tf.types import HarpError
from tests.conftest import ROOT
from tests.deploy.conftest import randomise

FOLDER = os.environ.get("HARP_AARCH64")


def _relu(x):
    return layers.ReLU()(layers.BatchNormalization()(x))


def first(size=3, strides=2, pad=1, padding="valid"):
    def apply(x):
        x = layers.ZeroPadding2D(pad)(x)
        return _relu(layers.Conv2D(16, size, strides=strides, padding=padding, use_bias=False, name="first")(x))

    return apply


def halve(size=3, pad=1, padding="valid", **changes):
    def apply(x):
        x = layers.ZeroPadding2D(pad)(x)
        options = {"strides": 2, "padding": padding, "use_bias": False, "name": "halve", **changes}
        return _relu(layers.DepthwiseConv2D(size, **options)(x))

    return apply


def pointwise(filters, name, **changes):
    return lambda x: _relu(layers.Conv2D(filters, 1, use_bias=False, name=name, **changes)(x))


def residual(x):
    return layers.Add(name="add")([x, pointwise(64, "beside")(x)])


def gated(x):
    gate = layers.Dense(64, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    return layers.Multiply(name="gate")([x, layers.Reshape((1, 1, 64))(gate)])


def network(sparsity=0.9, channels=3, begin=None, smaller=None, middle=residual, end=None):
    """A small network that runs sparse on ARM unless a part is exchanged."""
    image = keras.Input((32, 32, channels))
    x = pointwise(32, "wide")((begin or first())(layers.Rescaling(2.0, offset=-1.0)(image)))
    x = middle(pointwise(64, "wider")((smaller or halve())(x)))
    x = (end or layers.GlobalAveragePooling2D())(x)
    return randomise(keras.Model(image, layers.Dense(10, name="logits")(x)), sparsity)


def sparse_file(**changes):
    return sparsify(to_tflite(network(**changes)))


@pytest.fixture(scope="module")
def dense():
    return to_tflite(network())


@pytest.mark.parametrize("weight_type", [None, "float16", "int8_weights"])
def test_a_conforming_network_has_no_finding(dense, weight_type):
    assert arm_sparse_report(sparsify(quantize_weights(dense, weight_type) if weight_type else dense)) == []


# What is exchanged; the layer, rule and text of the first finding.
CHANGES = {
    "grey": ({"channels": 1}, "first", "first convolution", r"reads 1 channel\(s\)"),
    "first_5x5": ({"begin": first(5, pad=2)}, "first", "first convolution", "5x5, not 3x3"),
    "first_stride": ({"begin": first(strides=1)}, "first", "first convolution", "stride is 1"),
    "first_same": ({"begin": first(pad=0, padding="same")}, "first", "first convolution", "'same'"),
    "first_valid": ({"begin": first(pad=0)}, "first", "first convolution", "padded by 0, 0, 0, 0"),
    "halve_same": ({"smaller": halve(pad=0, padding="same")}, "halve", "depthwise convolution", "'same'"),
    "halve_uneven": ({"smaller": halve(pad=((2, 1), (1, 1)))}, "halve", "depthwise convolution", "by 2, 1, 1, 1"),
    "halve_7x7": ({"smaller": halve(7, pad=3)}, "halve", "depthwise convolution", "7x7"),
    "multiplier": ({"smaller": halve(depth_multiplier=2)}, "halve", "depthwise convolution", "multiplier is 2"),
    "pooled": ({"smaller": layers.MaxPooling2D(name="pool")}, "pool", "operator", "no sparse MAX_POOL_2D"),
    "full": ({"middle": lambda x: layers.Conv2D(8, 3, name="full")(x)}, "full", "operator", "no sparse CONV_2D"),
    "strided": ({"middle": pointwise(64, "far", strides=2)}, "far", "1x1 convolution", "stride is 2"),
    "grouped": ({"middle": pointwise(64, "groups", groups=4)}, "groups", "1x1 convolution", "4 groups"),
    "scaled": (
        {"middle": lambda x: layers.Rescaling([0.5] * 64, name="scaled")(residual(x))},
        "scaled",
        "operator",
        "1 ",
    ),
    "gated": ({"middle": gated}, "gate", "operator", "computed outside"),
    "maximum": ({"middle": lambda x: layers.Maximum(name="max")([x, -x])}, "max", "operator", "no sparse MAXIMUM"),
    "flattened": ({"end": layers.Flatten(name="flat")}, "flat", "end", "RESHAPE takes the features"),
    "highest": ({"end": layers.GlobalMaxPooling2D(name="peak")}, "peak", "end", "REDUCE_MAX takes the features"),
    "too_full": ({"sparsity": 0.6}, "wide", "zeros", "60.0% of it are zero, 60.0% of all"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_rule_is_named_with_its_layer(change):
    changes, layer, rule, text = CHANGES[change]
    finding = arm_sparse_report(sparse_file(**changes))[0]
    assert layer in finding.layer and finding.rule == rule and re.search(text, finding.found), str(finding)


def test_every_layer_in_the_way_is_named():
    found = arm_sparse_report(sparse_file(begin=first(strides=1), smaller=halve(7, pad=3), end=layers.Flatten()))
    assert [finding.rule for finding in found] == ["first convolution", "depthwise convolution", "end"]


def test_the_zeros_of_all_1x1_convolutions_count_together():
    # The last one is full, yet more than two thirds of them all are zero.
    model = network()
    kernel = model.get_layer("wide").kernel
    kernel.assign(np.ones(kernel.shape))
    assert arm_sparse_report(sparsify(to_tflite(model))) == []


def test_a_dense_file_and_one_that_computes_in_int8(dense):
    assert [finding.rule for finding in arm_sparse_report(dense)] == ["storage"]
    images = np.random.default_rng(0).random((8, 32, 32, 3), np.float32)
    found = arm_sparse_report(sparsify(to_tflite(network(), images)))
    assert [finding.rule for finding in found] == ["numbers"]


def test_networks_of_other_kinds(case):
    assert [finding.rule for finding in arm_sparse_report(case("dense_only", 0.9).sparse)][-1] == "first convolution"
    assert "first convolution" in {finding.rule for finding in arm_sparse_report(case("sequential", 0.9).sparse)}
    with pytest.raises(HarpError, match="Expected a TFLite file"):
        arm_sparse_report(b"nothing of that kind")


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_mobile_sparse_pruned_stripped_and_exported_runs_sparse(channels, tmp_path):
    model = models.build("mobile_sparse", (32, 32, channels), 10, width=0.25)
    small = harp_tf.strip(harp_tf.prune(model, 0.9, initial_rate=0.1, verbose=False))
    report = harp_tf.export_tflite(small, tmp_path / "model.tflite", sparse=True)
    assert report.nonzero <= 0.1 * report.parameters + 1
    assert arm_sparse_report(report.path) == []
    compact = harp_tf.export_tflite(harp_tf.compact(small), tmp_path / "compact.tflite", sparse=True)
    assert compact.parameters < report.parameters and arm_sparse_report(compact.path) == []


def test_the_program_prints_it(program, tmp_path):
    for name, changes, text in (("yes", {}, "skips its zeros"), ("no", {"smaller": halve(7, pad=3)}, "7x7")):
        network(**changes).save(tmp_path / f"{name}.keras")
        ended = program("export", f"--target={tmp_path / name}.keras", "--check_arm_sparse")
        assert ended.status == 0 and text in ended.out, ended.err


PARTIAL = ("halve_same", "halve_7x7", "multiplier", "pooled", "full", "strided", "grouped", "scaled")


def test_partial_sparse_is_prevented_with_the_same_logits():
    sparse = sparse_file(**CHANGES["pooled"][0])
    safe = prevent_partial_sparse(sparse)
    images = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    for xnnpack in (True, False):
        wanted = TFLiteClassifier(sparse, xnnpack=xnnpack).logits(images)
        np.testing.assert_array_equal(TFLiteClassifier(safe, xnnpack=xnnpack).logits(images), wanted)
    assert prevent_partial_sparse(safe) == safe != sparse and len(safe) < len(sparse) + 1000
    assert arm_sparse_report(safe) == arm_sparse_report(sparse)


def test_the_exporter_prevents_it(tmp_path):
    report = harp_tf.export_tflite(network(**CHANGES["pooled"][0]), tmp_path / "model.tflite", sparse=True)
    data = report.path.read_bytes()
    assert prevent_partial_sparse(data) == data
    assert data != sparse_file(**CHANGES["pooled"][0])


def test_files_that_cannot_go_wrong_stay_as_they_are(dense):
    for data in (dense, sparsify(dense), sparse_file(begin=first(strides=1)), sparse_file(sparsity=0.6)):
        assert prevent_partial_sparse(data) == data


SCRIPT = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
for path in sys.argv[1:]:
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]
    interpreter.set_tensor(image["index"], np.random.default_rng(0).random(image["shape"], np.float32))
    interpreter.invoke()
    np.save(path, interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


def wide_head(x):
    return layers.Dense(256, activation="relu", name="head")(layers.GlobalAveragePooling2D()(x))


def test_a_fully_connected_layer_computed_from_its_non_zeros_is_no_finding():
    data = sparse_file(sparsity=0.98, end=wide_head)
    assert 8 in {code.version for code in read_model(data).operatorCodes}
    assert arm_sparse_report(data) == [] and prevent_partial_sparse(data) == data


def kept_dimensions(x):
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Flatten()(layers.Conv2D(32, 1, name="head")(x))


@pytest.mark.skipif(not FOLDER, reason="needs an emulator: make test-arm")
def test_on_arm_pooling_that_keeps_its_dimensions_fails_and_is_rewritten(monkeypatch, tmp_path):
    # The reason for what test_sparse.py tests; when the last assertion fails, XNNPACK was repaired.
    script, paths = tmp_path / "run.py", [tmp_path / "right.tflite", tmp_path / "raw.tflite"]
    script.write_text(SCRIPT)
    paths[0].write_bytes(sparse_file(end=kept_dimensions))
    monkeypatch.setattr(sparse, "_reshape_after_global_means", lambda model: None)
    paths[1].write_bytes(sparse_file(end=kept_dimensions))
    ended = []
    for path in paths:
        command = [ROOT / "tools" / "aarch64.sh", FOLDER, script, path]
        ended.append(subprocess.run(command, capture_output=True, timeout=1200, check=False).returncode)
    wanted = TFLiteClassifier(paths[0]).logits(np.random.default_rng(0).random((1, 32, 32, 3), np.float32))
    np.testing.assert_allclose(np.load(f"{paths[0]}.npy"), wanted, rtol=0, atol=1e-4)
    assert ended[0] == 0 and ended[1] != 0


@pytest.mark.skipif(not FOLDER, reason="needs an emulator: make test-arm")
def test_on_arm_such_a_file_is_right(tmp_path):
    script, path = tmp_path / "run.py", tmp_path / "model.tflite"
    script.write_text(SCRIPT)
    path.write_bytes(sparse_file(sparsity=0.98, end=wide_head))
    subprocess.run([ROOT / "tools" / "aarch64.sh", FOLDER, script, path], capture_output=True, timeout=1200, check=True)
    wanted = TFLiteClassifier(path).logits(np.random.default_rng(0).random((1, 32, 32, 3), np.float32))
    np.testing.assert_allclose(np.load(f"{path}.npy"), wanted, rtol=0, atol=1e-4)


@pytest.mark.skipif(not FOLDER, reason="needs an emulator: make test-arm")
def test_on_arm_partly_sparse_files_are_wrong_and_prevented_ones_right(tmp_path):
    paths, logits = {}, {}
    for change in PARTIAL:
        sparse = sparse_file(**CHANGES[change][0])
        image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
        logits[change] = TFLiteClassifier(sparse).logits(image)
        for kind, data in (("raw", sparse), ("safe", prevent_partial_sparse(sparse))):
            paths[change, kind] = tmp_path / f"{change}_{kind}.tflite"
            paths[change, kind].write_bytes(data)
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [ROOT / "tools" / "aarch64.sh", FOLDER, script, *paths.values()]
    subprocess.run(command, capture_output=True, timeout=1200, check=True)
    errors = {key: np.abs(np.load(f"{path}.npy") - logits[key[0]]).max() for key, path in paths.items()}
    assert max(error for (_, kind), error in errors.items() if kind == "safe") < 1e-4, errors
    # The reason why there is prevent_partial_sparse; when this fails, XNNPACK was repaired.
    assert max(error for (_, kind), error in errors.items() if kind == "raw") > 1e-3, errors
