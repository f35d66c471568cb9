"""Models brought into the form that runs sparse on ARM: equal logits, nothing in the way, or nothing changed."""

import itertools
import os
import subprocess

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import TFLiteClassifier, arm_sparse_report, quantize_weights, sparsify, to_tflite
from harp_tf.deploy.arm_plan import Window
from harp_tf.deploy.arm_rewrite import _written, rewrite_for_arm
from tests.conftest import ROOT
from tests.deploy.conftest import randomise
from tests.deploy.test_arm_sparse import SCRIPT

FOLDER = os.environ.get("HARP_AARCH64")


def correlate(pixels, kernel, window):
    """The outputs of a window, pixel by pixel; what is outside of the image is zero."""
    results = []
    for output in range(window.outputs):
        places = window.stride * output - window.before + np.arange(window.kernel)
        inside = (places >= 0) & (places < window.size)
        results.append(kernel[inside] @ pixels[places[inside]])
    return np.array(results)


def test_mirrored_and_enlarged_windows_compute_the_same():
    rng = np.random.default_rng(0)
    enlarged = 0
    for size, kernel, stride, before, after in itertools.product(
        (5, 6, 9, 12), (1, 2, 3, 5), (1, 2), (0, 1, 2), (0, 1, 2)
    ):
        window = Window(size, kernel, stride, before, (size + before + after - kernel) // stride + 1)
        pixels, weights = rng.normal(size=size), rng.normal(size=kernel)
        wanted = correlate(pixels, weights, window)
        seen = correlate(pixels[::-1], weights[::-1], window.mirrored())
        np.testing.assert_allclose(seen[::-1], wanted, atol=1e-12)
        assert window.mirrored().mirrored() == window
        for length in (3, 5):
            offset = window.offset(length)
            if offset is not None:
                larger = np.zeros(length)
                larger[offset : offset + kernel] = weights
                placed = Window(size, length, stride, length // 2, (size - 1) // stride + 1)
                np.testing.assert_allclose(correlate(pixels, larger, placed), wanted, atol=1e-12)
                enlarged += 1
    assert enlarged > 50


def relu6(x):
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def padded(x, size, strides, pad):
    """The input of a convolution padded as `pad` says, and what the convolution is told."""
    if pad == "same" or strides == 1:
        return x, {"padding": "same", "strides": strides}
    if pad == "keras":  # as keras.applications.MobileNetV2 pads
        before = [size // 2 - 1 + length % 2 for length in x.shape[1:3]]
        pad = tuple((amount, size // 2) for amount in before)
    return layers.ZeroPadding2D(pad)(x), {"padding": "valid", "strides": strides}


def inverted(x, number, filters, pad, size=3, strides=1, depthwise=None):
    """A block of MobileNetV2, with a linear end."""
    y = relu6(layers.Conv2D(2 * x.shape[-1], 1, use_bias=False, name=f"expand{number}")(x))
    y, options = padded(y, size, strides, pad)
    if depthwise is layers.SeparableConv2D:
        return layers.SeparableConv2D(filters, size, **options, activation="relu", name=f"depthwise{number}")(y)
    y = relu6(layers.DepthwiseConv2D(size, **options, name=f"depthwise{number}")(y))
    y = layers.BatchNormalization()(layers.Conv2D(filters, 1, name=f"project{number}")(y))
    return layers.Add()([x, y]) if y.shape == x.shape else y


def network(shape=(32, 32, 3), pads=("same", "same"), size=3, depthwise=None, begin=None, middle=None, end=None):
    """A small MobileNetV2."""
    image = keras.Input(shape)
    x = layers.Rescaling(2.0, offset=-1.0)(image)
    x, options = padded(x, 3, 2, pads[0])
    x = relu6(begin(x) if begin else layers.Conv2D(8, 3, **options, name="first")(x))
    x = inverted(x, 1, 8, pads[0])
    x = inverted(x, 2, 16, pads[1], size, 2, depthwise)
    x = middle(x) if middle else inverted(x, 3, 16, pads[1], size)
    x = (end or layers.GlobalAveragePooling2D())(x)
    return randomise(keras.Model(image, layers.Dense(10, name="logits")(x)), 0.9)


def kept_dimensions(x):
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Reshape((12,))(layers.Conv2D(12, 1, name="head")(x))


def nested(x):
    inner_image = keras.Input(x.shape[1:])
    return keras.Model(inner_image, inverted(inner_image, 3, 16, "same"), name="inner")(x)


def kernel_sizes(model):
    return {layer.kernel_size for layer in model.layers if isinstance(layer, layers.DepthwiseConv2D)}


def is_mirrored(model):
    return any(operation.name.startswith("flip") for operation in model.operations)


# The changes, whether the image is flipped, and the sizes of the depthwise kernels.
REWRITTEN = {
    "same": ({}, True, {(3, 3)}),
    "as_keras": ({"pads": ("keras", "keras")}, True, {(3, 3)}),
    "uneven": ({"shape": (31, 46, 3), "pads": ("same", "keras")}, True, {(3, 3)}),
    "grey": ({"shape": (32, 32, 1)}, True, {(3, 3)}),
    "grey_only": ({"shape": (32, 32, 1), "pads": (1, 1)}, False, {(3, 3)}),
    "size_5": ({"size": 5}, True, {(3, 3), (5, 5)}),
    "enlarged": ({"pads": (1, "same")}, False, {(3, 3), (5, 5)}),
    "patches": ({"begin": layers.Conv2D(8, 2, strides=2, name="first")}, True, {(3, 3)}),
    "separable": ({"depthwise": layers.SeparableConv2D}, True, {(3, 3)}),
    "kept_dimensions": ({"end": kept_dimensions}, True, {(3, 3)}),
    "nested": ({"middle": nested}, True, {(3, 3)}),
}
QUICK = ("as_keras", "grey", "enlarged", "kept_dimensions", "flattened", "shared")


def some_slow(changes):
    return [pytest.param(change, marks=() if change in QUICK else pytest.mark.slow) for change in changes]


def difference(one, other, shape):
    """Largest difference of a logit, in their spread."""
    images = np.random.default_rng(1).random((4, *shape), np.float32)
    wanted, found = (m(images, training=False).numpy() for m in (one, other))
    return np.abs(wanted - found).max() / wanted.std()


@pytest.mark.parametrize("change", some_slow(REWRITTEN))
def test_a_rewritten_model_has_equal_logits_and_no_finding(change):
    changes, mirrored, sizes = REWRITTEN[change]
    model = network(**changes)
    written = _written(model)  # rewrite_for_arm converts the model twice to decide whether to return it
    assert difference(model, written, model.input_shape[1:]) < 1e-5
    assert is_mirrored(written) == mirrored and kernel_sizes(written) == sizes
    assert arm_sparse_report(sparsify(to_tflite(written))) == []
    assert written.input_shape == model.input_shape and written.name == model.name


def test_opened_names_meet_no_others():
    inner_image = keras.Input((16, 16, 3), name="block_pad")
    inner = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(inner_image)
    image = keras.Input((16, 16, 3), name="block_conv")
    x = keras.Model(inner_image, inner, name="block")(image)
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same", name="block_conv_1")(x)
    x = layers.Conv2D(8, 1, name="block_conv_1_pointwise")(x)
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    randomise(model, 0.5)
    written = rewrite_for_arm(model)
    assert written is not model and difference(model, written, (16, 16, 3)) < 1e-5
    assert [layer.name for layer in written.layers][:1] == ["block_conv"]


def gated(x):
    gate = layers.Dense(16, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    return layers.Multiply()([x, layers.Reshape((1, 1, 16))(gate)])


def twice(x):
    layer = layers.DepthwiseConv2D(3, padding="same")
    return layer(layer(x))


UNCHANGED = {
    "fits": {"pads": (1, 1)},
    "odd": {"shape": (33, 33, 3)},  # the converter makes 'same' again of padding by 1, where that is the same
    "flattened": {"pads": (1, "same"), "end": layers.Flatten()},
    "gated": {"middle": gated},
    "shared": {"middle": twice},
    "open": {"shape": (None, None, 3)},
}


@pytest.mark.parametrize("change", some_slow(UNCHANGED))
def test_a_model_with_no_such_form_or_in_it_comes_back(change):
    model = network(**UNCHANGED[change])
    assert rewrite_for_arm(model) is model


def test_a_vgg_comes_back(small):
    assert rewrite_for_arm(small.model) is small.model


def test_a_rewritten_model_can_be_saved_and_leaves_the_given_one_as_it_is(tmp_path):
    model = network()
    before = [variable.numpy() for variable in model.variables]
    written = _written(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    written.save(tmp_path / "written.keras")
    loaded = keras.models.load_model(tmp_path / "written.keras")
    assert difference(model, loaded, (32, 32, 3)) < 1e-5


@pytest.mark.slow
def test_the_program_exports_it(program, tmp_path):
    network().save(tmp_path / "model.keras")
    ended = program("export", f"--target={tmp_path}/model.keras", "--compact", "--arm_sparse")
    assert ended.status == 0 and "skips its zeros" in ended.out, ended.err
    images = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    wanted = keras.models.load_model(tmp_path / "model.keras")(images, training=False).numpy()
    np.testing.assert_allclose(TFLiteClassifier(tmp_path / "model.tflite").logits(images), wanted, atol=1e-4)


def test_the_files_of_a_run_directory_are_not_rewritten(program, small_run):
    ended = program("export", f"--target={small_run[0]}", "--arm_sparse")
    assert "--arm_sparse: for a .keras target or a phone kit" in ended.error


@pytest.mark.slow
@pytest.mark.parametrize("name, alpha, size", [("MobileNet", 0.25, 64), ("MobileNetV2", 0.35, 96)])
def test_mobilenets_of_keras(name, alpha, size):
    options = {"weights": None, "classes": 10, "classifier_activation": None}
    model = randomise(getattr(keras.applications, name)((size, size, 3), alpha=alpha, **options), 0.9)
    assert arm_sparse_report(sparsify(to_tflite(model)))
    written = rewrite_for_arm(model)
    assert difference(model, written, (size, size, 3)) < 1e-4
    assert arm_sparse_report(sparsify(to_tflite(written))) == []


@pytest.mark.skipif(not FOLDER, reason="needs an emulator: make test-arm")
def test_on_arm_rewritten_files_are_right(tmp_path):
    files, wanted = {}, {}
    for change in ("as_keras", "grey", "enlarged", "separable"):
        model = network(**REWRITTEN[change][0])
        dense = to_tflite(rewrite_for_arm(model))
        image = np.random.default_rng(0).random((1, *model.input_shape[1:]), np.float32)
        for kind, data in (("float32", dense), ("int8_weights", quantize_weights(dense, "int8_weights"))):
            path = tmp_path / f"{change}_{kind}.tflite"
            path.write_bytes(sparsify(data))
            assert arm_sparse_report(path) == []
            files[path] = TFLiteClassifier(path).logits(image)
            wanted[path] = model(image, training=False).numpy() if kind == "float32" else files[path]
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [ROOT / "tools" / "aarch64.sh", FOLDER, tmp_path / "run.py", *files]
    subprocess.run(command, capture_output=True, timeout=1200, check=True)
    for path in files:
        np.testing.assert_allclose(np.load(f"{path}.npy"), wanted[path], rtol=0, atol=1e-4, err_msg=path.name)
