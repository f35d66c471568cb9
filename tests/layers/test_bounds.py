"""Floors and ceilings of the rates of single layers."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from harp_tf.layers import budget_of, project_to_budget, prune, pruned_kernels, rate_table, strip
from harp_tf.layers.bounds import bounds_of, rate_bounds_from, require_matches
from harp_tf.types import HarpError
from tests.layers.nets import small_net, trained

BOUNDS = {"dense.": (None, 0.1), "conv1": (0.5, None), "dense2": (0.2, 0.4)}


def bounds(bounds):
    return rate_bounds_from(bounds)


def test_the_last_bound_about_a_kernel_counts():
    rules = bounds(BOUNDS)
    assert bounds_of("conv1/kernel", rules, 0.001) == (0.5, 1.0)
    assert bounds_of("dense1/kernel", rules, 0.001) == (0.001, 0.1)
    assert bounds_of("dense2/kernel", rules, 0.001) == (0.2, 0.4)
    assert bounds_of("conv2/kernel", rules, 0.001) is None


@pytest.mark.parametrize(
    ("layers", "matched"),
    [
        ("conv1", ["block/conv1/kernel", "conv1/kernel"]),
        ("block", ["block/conv1/kernel", "block/sep/pointwise_kernel"]),
        ("block/.*", ["block/conv1/kernel", "block/sep/pointwise_kernel"]),
        (".*/pointwise_kernel", ["block/sep/pointwise_kernel"]),
        ("conv1/kernel", ["conv1/kernel"]),
        ("conv", []),
    ],
)
def test_what_a_bound_is_about(layers, matched):
    (rule,) = bounds({layers: (0.1, 1)})
    paths = ["block/conv1/kernel", "block/sep/pointwise_kernel", "conv1/kernel"]
    assert [path for path in paths if rule.matches(path)] == matched


def test_initial_rates_are_moved_to_the_bounds_and_the_report_says_so(capsys):
    model = prune(small_net(), 0.9, rate_bounds=BOUNDS)
    rates = {path: row["rate"] for path, row in rate_table(model).items()}
    assert rates["conv2/kernel"] == pytest.approx(0.1)
    # As with the floor of all rates, a rate starts a little above its floor, from where it can be learned.
    assert rates["conv1/kernel"] == pytest.approx(0.505)
    assert rates["dense1/kernel"] == pytest.approx(0.1, rel=1e-6) and rates["dense1/kernel"] <= 0.1
    assert 0.2 < rates["dense2/kernel"] < 0.203
    text = capsys.readouterr().out
    assert re.search(r"^dense2/kernel +2,100 +42\d +0.20\d+  between 0.2 and 0.4$", text, re.MULTILINE)
    assert "initial rate of conv1/kernel: 0.50000, the nearest within its bounds, not 0.10000\n" in text
    assert "initial rate of conv2/kernel" not in text


@pytest.mark.parametrize("logit", [-1e6, 1e6])
def test_a_learned_rate_stays_within_its_bounds(logit):
    model = prune(small_net(), 0.9, rate_bounds=BOUNDS, verbose=False)
    for kernel in pruned_kernels(model):
        scores = kernel.scores
        scores.logit.assign(scores.logit.constraint(tf.constant(logit)))
        low, high = {"conv1/kernel": (0.5, 1), "dense1/kernel": (0.01, 0.1), "dense2/kernel": (0.2, 0.4)}.get(
            kernel.path, (0.01, 1)
        )
        assert np.float32(low) <= scores.rate() <= high
        assert scores.least() <= scores.mask().numpy().sum() <= scores.most() <= np.ceil(high * scores.size)
        with tf.GradientTape() as tape:
            rate = scores.rate()
        assert tape.gradient(rate, scores.logit) > 0  # it can return


@pytest.mark.parametrize("budget", ["weights", "flops"])
def test_the_projection_honours_bounds(budget):
    model = prune(small_net(), 0.9, budget=budget, rate_bounds=BOUNDS, verbose=False)
    for kernel in pruned_kernels(model):
        kernel.scores.logit.assign(5.0)
    assert project_to_budget(model)
    rows = rate_table(model)
    assert rows["conv1/kernel"]["kept"] >= 72
    assert rows["dense1/kernel"]["kept"] <= 0.1 * 48_000
    assert 420 <= rows["dense2/kernel"]["kept"] <= 840
    after = budget_of(model)
    assert after.met
    if budget == "flops":  # conv2, the only layer with room, pays 16 for a weight
        assert after.permitted - after.kept < 16 or rows["conv2/kernel"]["kept"] == 1440


@pytest.mark.parametrize("rate", [1.0, 0.3, 0.7])
def test_equal_bounds_fix_a_rate(rate):
    model = prune(small_net(), 0.9, rate_bounds={"conv2": (rate, rate)}, verbose=False)
    scores = {kernel.path: kernel.scores for kernel in pruned_kernels(model)}["conv2/kernel"]
    for logit in (-5.0, 0.0, 5.0):
        scores.logit.assign(logit)
        assert scores.kept() == scores.least() == scores.most() == round(1440 * rate)
    trained(model)
    project_to_budget(model)
    assert budget_of(model).met and scores.kept() == round(1440 * rate)


def test_fixed_rates_of_mode_score_are_within_bounds():
    model = prune(
        small_net(), 0.9, mode="score", rate_bounds={"conv1": (0.5, 1), "dense2": (None, 0.02)}, verbose=False
    )
    rows = rate_table(model)
    assert 72 <= rows["conv1/kernel"]["kept"] < 76
    assert rows["dense2/kernel"]["kept"] == 42
    assert budget_of(model).met


def test_bounds_are_saved_and_stripped(tmp_path):
    separable = layers.SeparableConv2D(8, 3, name="separable")
    model = keras.Sequential([keras.Input((8, 8, 4)), separable, layers.Flatten(), layers.Dense(3, name="head")])
    pruned = prune(model, 0.8, rate_bounds={"separable/depthwise_kernel": (1, 1), "head": (0.05, 0.3)}, verbose=False)
    pruned.save(tmp_path / "pruned.keras")
    again = keras.models.load_model(tmp_path / "pruned.keras")
    expected = [(1.0, 1.0), (0.02, 1.0), (0.05, 0.3)]
    for found in (pruned, again):
        limits = [(k.scores.minimum_rate, k.scores.maximum_rate) for k in pruned_kernels(found)]
        np.testing.assert_allclose(limits, expected, rtol=1e-6)
        assert found.get_layer("separable").get_config()["rate_bounds"] == {"depthwise_kernel": [1.0, 1.0]}
    assert rate_table(again) == rate_table(pruned)
    assert "rate_bounds" not in strip(again).get_layer("head").get_config()


def test_without_bounds_nothing_is_saved_about_them():
    assert "rate_bounds" not in prune(small_net(), 0.9, verbose=False).get_layer("conv1").get_config()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conv3": (0.1, 1)}, r"not pruned: 'conv3'. The pruned ones are conv1/kernel, conv2/kernel, "),
        ({"norm1": (0.1, 1)}, r"not pruned: 'norm1'"),
        ({"conv1": (0.5, 0.1)}, r"rate_bounds of 'conv1' must be \(smallest, largest\), received \(0.5, 0.1\)"),
        ({"conv1": (0, 0.5)}, r"fractions kept in \(0, 1\], received 0. Leave out a bound that is not wanted"),
        ({"conv1": (0.1, 1.5)}, "received 1.5"),
        ({"conv1": 0.1}, r"rate_bounds of 'conv1' must be a pair \(smallest, largest\), received 0.1"),
        ({"conv1": "01"}, "must be a pair"),
        ([("conv1", 0.1, 1)], r"rate_bounds must be a dict, e.g. \{'conv1': \(0.1, 0.5\)\}, received"),
        ({"conv[": (0.1, 1)}, r"regular expressions of layers, received 'conv\['"),
        ({"conv1": (None, 0.005)}, r"'conv1/kernel' a ceiling of 0.005, below the floor of all rates, 0.01 "),
        ({"dense1": (0.5, None)}, r"budget of 5,168 weights cannot be met: .* lower floors in rate_bounds"),
    ],
)
def test_bounds_that_cannot_be_used(given, message):
    with pytest.raises(HarpError, match=message):
        prune(small_net(), 0.9, rate_bounds=given, verbose=False)


def test_every_bound_must_be_about_something():
    require_matches(bounds({"a": (0.1, 1), "b": (0.1, 1)}), ["a/kernel", "b/kernel"])
    with pytest.raises(HarpError, match="not pruned: 'b', 'c'"):
        require_matches(bounds({"a": (0.1, 1), "b": (0.1, 1), "c": (0.1, 1)}), ["a/kernel"])
