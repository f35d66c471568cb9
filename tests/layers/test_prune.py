"""The verb `prune`: from a dense model to a pruned one."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from harp_tf.layers import PrunedLayer, describe, prune, pruned_kernels, rate_table
from harp_tf.layers.rebuild import walk
from harp_tf.types import HarpError
from tests.layers.nets import MODELS, functional, nested, outputs_of, sequential


def keep_all(model):
    for kernel in pruned_kernels(model):
        kernel.scores.set_count(kernel.scores.size)


# prune -----------------------------------------------------------------------------------------------------------


def test_names_graph_and_weights_are_kept_and_the_original_is_untouched(model):
    config, weights, trainable = model.get_config(), model.get_weights(), len(model.trainable_variables)
    outputs = outputs_of(model)
    pruned = prune(model, 0.9, verbose=False)

    assert pruned.name == model.name and type(pruned) is type(model)
    assert [path for path, _ in walk(pruned)] == [path for path, _ in walk(model)]
    assert pruned.input_names == model.input_names if hasattr(model, "input_names") else True
    for path, layer in walk(pruned):
        plain = dict(walk(model))[path]
        if isinstance(layer, PrunedLayer):
            assert layer.base_class is type(plain)
            copied = layer.base_variables()
        else:
            assert type(layer) is type(plain)
            copied = layer.variables
        for found, expected in zip(copied, plain.variables, strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found is not expected

    keep_all(pruned)
    for found, expected in zip(outputs_of(pruned), outputs, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert model.get_config() == config
    assert len(model.trainable_variables) == trainable
    for found, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_the_way_rates_learn_is_saved_with_the_model(granularity, tmp_path):
    def slopes(model):
        """By kernel or channel space, the gradient of a loss to which not all units matter alike."""
        found = []
        for kernel in pruned_kernels(model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(kernel.scores.mask() * tf.abs(kernel.scores.scores) ** 3)
            found.append(float(tape.gradient(loss, kernel.scores.logit.value)))
        return np.array(found)

    model = sequential()
    ways = {
        way: prune(model, 0.3, granularity=granularity, rate_gradient=way, verbose=False) for way in ("sum", "marginal")
    }
    default = prune(model, 0.3, granularity=granularity, verbose=False)
    np.testing.assert_array_equal(slopes(default), slopes(ways["sum"]))
    assert (slopes(ways["marginal"]) != slopes(ways["sum"])).all()
    ways["marginal"].save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(slopes(loaded), slopes(ways["marginal"]))
    with pytest.raises(HarpError, match="rate_gradient must be one of sum, marginal, received 'mean'"):
        prune(model, 0.3, rate_gradient="mean")


def test_wrapped_layers():
    paths = {
        "sequential": ["conv/kernel", "depthwise/kernel", "dense/kernel"],
        "functional": ["conv1/kernel", "shortcut/kernel", "shared/kernel", "head/kernel", "side/kernel"],
        "nested": [
            *(f"body/sequential_net/{name}/kernel" for name in ("conv", "depthwise", "dense")),
            "body/project/kernel",
            "head/kernel",
        ],
    }
    for name, build in MODELS.items():
        found = [kernel.path for kernel in pruned_kernels(prune(build(), 0.5, verbose=False))]
        assert sorted(found) == sorted(paths[name])


def test_initial_scores_and_rates():
    model = sequential()
    pruned = prune(model, 0.99, verbose=False)
    fans = {"conv/kernel": 18, "depthwise/kernel": 9, "dense/kernel": 216}
    for kernel in pruned_kernels(pruned):
        weights = kernel.variable.numpy()
        expected = np.sqrt(6 / fans[kernel.path]) * weights / np.abs(weights).max()
        np.testing.assert_allclose(kernel.scores.scores, expected, rtol=1e-5)
        assert float(kernel.scores.rate()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({"target_sparsity": 0.99}, 0.1),
        ({"target_sparsity": 0.8}, 0.2),
        ({"target_sparsity": 0.99, "initial_rate": 0.5}, 0.5),
        ({"target_sparsity": 0.99, "mode": "rate"}, 0.1),
        ({"target_sparsity": 0.8, "mode": "score"}, 0.2),
    ],
)
def test_where_rates_start(options, rate):
    rates = [row["rate"] for row in rate_table(prune(sequential(), **options, verbose=False)).values()]
    assert rates == pytest.approx([rate] * 3, abs=0.03)


def test_rates_of_mode_score_meet_the_budget_from_the_start():
    for strategy in ("uniform", "erk", "igq", "lamp"):
        pruned = prune(sequential(), 0.95, mode="score", strategy=strategy, verbose=False)
        kept = [row["kept"] for row in rate_table(pruned).values()]
        assert sum(kept) == 62  # of 108 + 54 + 1080
        assert not pruned.layers[1].kernel_scores[0].logit.trainable


def test_strategies_decide_the_start():
    rates = {
        strategy: [
            row["rate"] for row in rate_table(prune(functional(), 0.5, strategy=strategy, verbose=False)).values()
        ]
        for strategy in ("uniform", "erk", "igq", "lamp")
    }
    assert len({tuple(values) for values in rates.values()}) == 4
    own = prune(sequential(), 0.5, strategy=lambda kernels, rate: {k.path: 1 / k.size for k in kernels}, verbose=False)
    assert [row["rate"] for row in rate_table(own).values()] == pytest.approx(
        [0.055] * 3, rel=0.01
    )  # the floor is 0.05


@pytest.mark.parametrize("mode", ["harp", "score"])
def test_a_learned_strategy_can_be_fed_back(tmp_path, mode):
    model = sequential()
    first = prune(model, 0.9, verbose=False)
    for kernel, rate in zip(pruned_kernels(first), (0.7, 0.3, 0.01), strict=True):
        kernel.scores.set_rate(rate)
    table = rate_table(first)
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"target_sparsity": 0.9, "projected": False, "layers": table}))
    assert sum(row["kept"] for row in table.values()) <= 124
    again = rate_table(prune(model, 0.9, mode=mode, strategy=str(path), verbose=False))
    for name, row in table.items():
        assert again[name]["kept"] == row["kept"]
        assert again[name]["rate"] == pytest.approx(row["rate"], abs=1 / row["weights"])


def test_given_rates_below_the_floor_of_learned_ones_are_kept(tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"conv/kernel": 0.02, "depthwise/kernel": 0.02, "dense/kernel": 0.002}))
    table = rate_table(prune(sequential(), 0.5, mode="score", strategy=str(path), verbose=False))
    assert [row["kept"] for row in table.values()] == [3, 2, 3]


def test_a_pruned_model_trains_with_plain_keras():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="hidden"), layers.Dense(3, name="head")])
    pruned = prune(model, 0.5, verbose=False)
    before = {k.path: k.scores.scores.numpy() for k in pruned_kernels(pruned)}
    images = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile(keras.optimizers.SGD(0.1), loss)
    pruned.fit(images, np.arange(8) % 3, epochs=1, verbose=0)
    for kernel in pruned_kernels(pruned):
        assert not np.array_equal(before[kernel.path], kernel.scores.scores)
        np.testing.assert_array_equal(kernel.variable, model.get_layer(kernel.layer.name).kernel)
    np.testing.assert_allclose(pruned.predict(images, verbose=0), pruned(images), rtol=1e-4, atol=1e-5)
    lines = []
    pruned.summary(print_fn=lines.append)
    assert "PrunedDense" in "".join(lines)


# What is left alone, and the report --------------------------------------------------------------------------------


def test_the_report_names_what_was_wrapped_and_what_was_not_and_why(capsys):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, name="embedding")(inputs)
    x = layers.Dense(64, name="first")(x)
    x = layers.Dense(16, name="frozen", trainable=False)(x)
    outputs = layers.Dense(3, name="head")(layers.Flatten(name="flatten")(x))
    model = keras.Model(inputs, outputs)
    pruned = prune(model, 0.5, skip=["head"])
    text = capsys.readouterr().out
    assert text == (
        "kernel             weights          kept      rate\n"
        "first/kernel           512           256   0.50000\n"
        "total                  512           256   0.50000\n"
        "target sparsity 0.5: at most 256 weights may remain, 256 of 512 do\n"
        "not pruned: embedding (no prunable kernel is known for Embedding)\n"
        "not pruned: frozen (frozen: trainable is False)\n"
        "not pruned: head (skipped on request)\n"
    )
    assert describe(pruned) == text[: text.index("\nnot pruned")]
    for name in ("embedding", "frozen", "head"):
        assert not isinstance(pruned.get_layer(name), PrunedLayer)
        for found, expected in zip(pruned.get_layer(name).variables, model.get_layer(name).variables, strict=True):
            np.testing.assert_array_equal(found, expected)
    prune(model, 0.5, verbose=False)
    assert capsys.readouterr().out == ""


def test_the_report_warns_of_layers_with_a_handful_of_weights():
    text = describe(prune(sequential(), 0.99, mode="score", verbose=False))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert lines["depthwise/kernel"].endswith("only a handful of weights left")
    assert "handful" not in lines["dense/kernel"]


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("conv", {"body/sequential_net/conv"}),
        (["head", "project"], {"head", "body/project"}),
        ({"body/sequential_net/dense"}, {"body/sequential_net/dense"}),
        (["sequential_net"], {"body/sequential_net/" + name for name in ("conv", "depthwise", "dense")}),
        (["body/sequential_net"], {"body/sequential_net/" + name for name in ("conv", "depthwise", "dense")}),
        (["body"], {"body/project"} | {"body/sequential_net/" + name for name in ("conv", "depthwise", "dense")}),
        (lambda path, layer: isinstance(layer, layers.Conv2D), {"body/sequential_net/conv"}),
        (lambda path, layer: path.endswith("head"), {"head"}),
    ],
)
def test_skip_by_name_path_nested_model_or_function(skip, left):
    pruned = prune(nested(), 0.5, skip=skip, verbose=False)
    wrapped = {path for path, layer in walk(pruned) if isinstance(layer, PrunedLayer)}
    everything = {path for path, layer in walk(prune(nested(), 0.5, verbose=False)) if isinstance(layer, PrunedLayer)}
    assert everything - wrapped == left


def test_a_skip_function_sees_each_layer_with_a_kernel_once():
    seen = []
    prune(functional(), 0.5, skip=lambda path, layer: seen.append(path), verbose=False)
    assert sorted(seen) == ["conv1", "head", "shared", "shortcut", "side"]


class OwnDense(layers.Dense):
    """Not registered with harp_tf."""


def test_strict():
    model = keras.Sequential([keras.Input((6,)), OwnDense(8, name="own"), layers.Dense(3, name="head")])
    assert [k.path for k in pruned_kernels(prune(model, 0.5, verbose=False))] == ["head/kernel"]
    with pytest.raises(
        HarpError, match=r"unknown kind: own \(OwnDense\). Register them with .*skip=, or leave out strict"
    ):
        prune(model, 0.5, strict=True)
    assert pruned_kernels(prune(model, 0.5, strict=True, skip="own", verbose=False))


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0, 1, 1.0, -1, "a", True, float("nan"), None])
def test_target_sparsity(sparsity):
    with pytest.raises(HarpError, match="target_sparsity must be a number strictly between 0 and 1 .*received"):
        prune(sequential(), sparsity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "hydra"}, "mode must be one of harp, score, rate, received 'hydra'"),
        ({"budget": "bytes"}, "budget must be one of weights, flops, received 'bytes'"),
        ({"granularity": "bit"}, "granularity must be one of .*received 'bit'"),
        ({"floor_factor": 1.0}, "floor_factor must be a number strictly between 0 and 1, received 1.0"),
        ({"strategy": "magnitude"}, "strategy must be one of uniform, erk, igq, lamp, .*received 'magnitude'"),
        ({"strategy": "no/such.json"}, "Cannot read the rates file no/such.json"),
        ({"strategy": lambda kernels, rate: {}}, r"must give 'conv/kernel' a rate in \(0, 1\], it gave None"),
        ({"strategy": lambda kernels, rate: {k.path: 0.0 for k in kernels}}, "it gave 0.0"),
        ({"initial_rate": 0}, r"initial_rate, .* must be in \(0, 1\], received 0"),
        ({"initial_rate": 1.5}, "received 1.5"),
        ({"initial_rate": "0.1"}, "received '0.1'"),
        ({"initial_rate": float("nan")}, "received nan"),
        (
            {"skip": ["conv", "convv"]},
            "skip names layers that model 'sequential_net' does not have: 'convv'. It has conv",
        ),
        ({"skip": "con"}, "does not have: 'con'"),
        ({"floor_factor": 0.95}, "budget of 124 weights cannot be met: .* a smaller floor_factor"),
    ],
)
def test_options(options, message):
    with pytest.raises(HarpError, match=message):
        prune(sequential(), 0.9, **options, verbose=False)


def test_a_budget_of_less_than_a_weight_per_layer_fails_before_any_training():
    with pytest.raises(HarpError, match="budget of 1 weights cannot be met: the 3 prunable layers .* at least 3"):
        prune(sequential(), 0.999, verbose=False)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (
            lambda: keras.Sequential([keras.Input((4,)), layers.ReLU()], name="bare"),
            "'bare' has no layer .*it has no kernels",
        ),
        (
            lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2, name="d", trainable=False)]),
            "no layer that can be pruned.*d: frozen: trainable is False",
        ),
        (lambda: keras.Sequential([layers.Dense(2)], name="empty"), "'empty' has no weights yet"),
        (lambda: None, "Expected a Keras 3 model .*received builtins.NoneType"),
        (lambda: prune(sequential(), 0.5, verbose=False), "Layer 'conv' is pruned already. Pass the dense model, or"),
    ],
)
def test_models_that_cannot_be_pruned(built, message):
    with pytest.raises(HarpError, match=message):
        prune(built(), 0.5)


def test_everything_skipped():
    with pytest.raises(HarpError, match="no layer that can be pruned.*conv: skipped on request; depthwise: skipped"):
        prune(sequential(), 0.5, skip=lambda path, layer: True)


def test_a_model_of_tf_keras():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(4,))])
    with pytest.raises(HarpError, match="Expected a Keras 3 model .*received tf_keras.*built anew with keras.layers"):
        prune(model, 0.5, skip=["dense"])
