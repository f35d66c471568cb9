"""Whole models: the same outputs, fewer channels."""

import importlib

import keras
import numpy as np
import pytest
from keras import layers

import harp_tf
from harp_tf import models
from harp_tf.compaction import compact, compact_with_report, linear
from harp_tf.types import HarpError

SHAPES = {"vgg28": (28, 28, 1), "cnn_digits": (8, 8, 1)}


def channels(report):
    return sorted((layer.channels_after, layer.weights_after) for layer in report.layers if layer.channels_after)


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 50))])
def test_random_graphs_compute_the_same(random_model, same_outputs, seed):
    model = random_model(seed)
    small, report = compact_with_report(model)
    same_outputs(model, small)
    assert small.count_params() < model.count_params()
    if seed % 4 == 0:
        again, second = compact_with_report(small)
        assert channels(second) == channels(report) and again.count_params() == small.count_params()
        same_outputs(model, compact(model, fold_batch_norm=False, verbose=False))


@pytest.mark.slow
def test_most_random_graphs_look_at_their_images(random_model):
    images = np.random.default_rng(1).normal(0.5, 1.0, (4, 12, 12, 3))
    spreads = [np.std(random_model(seed)(images), axis=0).max() for seed in range(10)]
    assert np.count_nonzero(np.greater(spreads, 1e-4)) >= 6


def every_model():
    """All models in small, the deep ones and the full sizes only among the slow tests."""
    for name in models.names():
        yield pytest.param(name, 0.25, marks=[pytest.mark.slow] * (name in ("resnet50", "wrn_28_4")))
        yield pytest.param(name, 1.0, marks=pytest.mark.slow)


@pytest.mark.parametrize("name, width", every_model())
def test_every_model_of_the_library(name, width, randomised, checked):
    model = randomised(models.build(name, SHAPES.get(name, (32, 32, 3)), 10, width=width), 0.99)
    small, _ = checked(model)
    assert small.count_params() < 0.5 * model.count_params()
    norms = [layer for layer in small.layers if isinstance(layer, layers.BatchNormalization)]
    assert not norms or name == "wrn_28_4"  # whose batch norms follow additions


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "EfficientNetB0"])
def test_applications_of_keras(name, randomised, checked):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classifier_activation=None)
    checked(randomised(model, 0.95))


def test_what_harp_removed_is_gone(same_outputs):
    pruned = harp_tf.prune(models.build("cnn_digits", (8, 8, 1), 10, width=0.25), 0.99, verbose=False)
    model = harp_tf.strip(pruned)
    small, report = compact_with_report(model)
    same_outputs(model, small)
    before = {layer.name: np.any(model.get_layer(layer.name).kernel != 0, axis=(0, 1)) for layer in report.layers[:3]}
    assert all(layer.channels_after <= np.count_nonzero(before[layer.name].any(0)) + 1 for layer in report.layers[:3])


@pytest.mark.parametrize(
    "name, layer, reader",
    [
        ("cnn_digits", "conv1", "conv2"),
        pytest.param("resnet18", "stage2_block1_conv1", "stage2_block1_conv2", marks=pytest.mark.slow),
        pytest.param("resnet18", "stage2_block1_shortcut_conv", "stage2_block2_conv1", marks=pytest.mark.slow),
    ],
)
def test_channels_that_harp_removed_are_gone(name, layer, reader, same_outputs):
    shape = SHAPES.get(name, (32, 32, 3))
    dense = models.build(name, shape, 10, width=0.25)
    model = harp_tf.strip(harp_tf.prune(dense, 0.75, granularity="channel", mode="score", verbose=False))
    small, report = compact_with_report(model)
    same_outputs(model, small)
    after = {change.name: change.channels_after for change in report.layers}
    read = np.count_nonzero(np.any(model.get_layer(reader).kernel != 0, axis=(0, 1, 3)))
    assert after[layer] == read < model.get_layer(layer).filters


def test_inputs_outputs_and_names_stay():
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="extra", dtype="float32")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="conv")(image))
    y = layers.Concatenate()([x, layers.Dense(8, name="dense")(extra)])
    outputs = {"logits": layers.Dense(5, name="head")(y), "features": x}
    model = keras.Model({"image": image, "extra": extra}, outputs, name="two")
    small = compact(model, verbose=False)
    rng = np.random.default_rng(0)
    given = {"image": rng.random((2, 8, 8, 3), np.float32), "extra": rng.random((2, 4), np.float32)}
    wanted, got = model(given), small(given)
    assert small.name == "two" and wanted.keys() == got.keys()
    for key in wanted:
        np.testing.assert_allclose(wanted[key], got[key], atol=1e-6)
    assert {"conv", "dense", "head"} <= {layer.name for layer in small.layers}


def test_the_given_model_is_not_changed(random_model):
    model = random_model(3)
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    compact(model, verbose=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    assert names == [layer.name for layer in model.layers]


def test_nested_models_are_opened_and_equal_names_told_apart(checked):
    def block(name):
        inner = keras.Input((8, 8, 6))
        return keras.Model(inner, layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(inner), name=name)

    model = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            block("a"),
            keras.Sequential([block("b"), block("c")], name="d"),
            layers.GlobalMaxPooling2D(),
        ]
    )
    kernel = model.get_layer("a").get_layer("conv").kernel
    kernel.assign(kernel * (np.arange(6) < 2))
    small, counts = checked(model)
    assert counts == {"a_conv": 2, "d_b_conv": 6, "d_c_conv": 6}
    assert not any(isinstance(layer, keras.Model) for layer in small.layers)


def test_a_layer_without_weights_may_be_used_again(checked):
    relu, softmax = layers.ReLU(name="relu"), layers.Softmax(name="softmax")
    image = keras.Input((8, 8, 3))
    x = relu(layers.Conv2D(4, 3, name="a")(image)) * 2.0
    inner = keras.Input((6, 6, 4))
    nested = keras.Model(inner, keras.ops.relu(inner * 3.0) + inner, name="nested")
    x = layers.Conv2D(5, 3, name="b")(nested(nested(x)))
    checked(keras.Model(image, softmax(relu(softmax(x)))))


def test_names_that_would_be_equal_are_told_apart(checked):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="s_depthwise")(image)
    small, _ = checked(keras.Model(image, layers.SeparableConv2D(4, 3, name="s")(x)))
    assert [layer.name for layer in small.layers[1:]] == ["s_depthwise", "s_depthwise_1", "s_pointwise"]


def test_the_file_loads_without_the_library_and_in_safe_mode(random_model, new_process, tmp_path):
    model = random_model(1)
    small = compact(model, verbose=False)
    images = np.random.default_rng(1).random((2, 12, 12, 3), np.float32)
    small.save(tmp_path / "small.keras")
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "logits.npy", small(images))
    program = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('small.keras', safe_mode=True)\n"
        "np.testing.assert_allclose(model(np.load('images.npy')), np.load('logits.npy'), rtol=1e-5, atol=1e-6)\n"
        "assert 'harp_tf' not in sys.modules\n"
    )
    ended = new_process("-c", program, cwd=tmp_path, path="")
    assert ended.status == 0, ended.err


def test_mixed_precision_stays(randomised):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = randomised(models.build("cnn_digits", (8, 8, 1), 10, width=0.25), 0.9)
    finally:
        keras.config.set_dtype_policy("float32")
    small = compact(model, verbose=False)
    assert small.get_layer("conv2").compute_dtype == "float16" and small.get_layer("logits").compute_dtype == "float32"
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    np.testing.assert_allclose(model(images), small(images), atol=0.05 * np.std(model(images)))


def test_a_model_that_still_has_scores_is_refused():
    pruned = harp_tf.prune(keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(3)]), 0.5, verbose=False)
    with pytest.raises(HarpError, match="strip"):
        compact(pruned)


def test_a_change_of_the_outputs_is_refused(monkeypatch, random_model):
    monkeypatch.setattr(linear, "position_sums", lambda kernel: np.ones(kernel.shape[-2:]))
    dense = layers.Dense(4, bias_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), dense, layers.Dense(3)])
    dense.kernel.assign(dense.kernel * [1, 0, 1, 1])
    with pytest.raises(HarpError, match="must not"):
        compact(model)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_outputs_that_are_no_numbers_are_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(3)])
    model.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(HarpError, match="must not"):
        compact(model)


def test_models_of_whole_numbers_are_compared_on_more_than_zeros():
    both = [
        keras.Sequential([keras.Input((4,), dtype="uint8"), layers.Rescaling(1 / 255), layers.Dense(3, use_bias=False)])
        for _ in range(2)
    ]
    assert importlib.import_module("harp_tf.compaction.compact")._difference(*both) > 0.1


def test_the_table_names_what_was_done(capsys):
    conv = layers.Conv2D(4, 3, name="conv")
    model = keras.Sequential([keras.Input((8, 8, 2)), conv, layers.LayerNormalization(name="norm"), layers.Flatten()])
    compact(model)
    printed = capsys.readouterr().out
    assert "left alone: norm (LayerNormalization: no rule is known)" in printed and "4 ->      4" in printed
    single = keras.Sequential([keras.Input((8, 8, 2)), conv, layers.Flatten(), layers.Dense(3, name="head")])
    conv.kernel.assign(conv.kernel * (np.arange(4) == 1))
    compact(single)
    assert "a single channel" in capsys.readouterr().out
