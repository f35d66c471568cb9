"""Scores and rate of one kernel."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.compression import hw_loss, logit_bounds
from harp_tf.layers.kernel import Kernel
from harp_tf.layers.scores import KernelScores, LogitRange

GOLDEN = np.load(Path(__file__).parents[1] / "golden/harp_reference.npz", allow_pickle=False)


def scores_of(shape, minimum_rate=0.001, fan_in=9):
    return KernelScores(shape, fan_in, minimum_rate, name="kernel_scores")


@pytest.mark.parametrize("layer", ["c1", "c2", "f1", "f2"])
def test_golden_initial_scores(layer):
    axes = (2, 3, 1, 0) if layer.startswith("c") else (1, 0)
    weight = GOLDEN[f"score_init/{layer}/weight"].transpose(axes)
    scores = scores_of(weight.shape, fan_in=Kernel().fan_in(weight.shape))
    scores.initialise(weight, 0.1)
    expected = GOLDEN[f"score_init/{layer}/scores"].transpose(axes)
    np.testing.assert_allclose(scores.scores.numpy(), expected, rtol=1e-6)


def test_an_empty_kernel_has_scores_of_zero_and_an_exact_mask():
    scores = scores_of((4, 5))
    scores.initialise(np.zeros((4, 5)), 0.25)
    assert not scores.scores.numpy().any()
    assert scores.mask().numpy().ravel().tolist() == [1] * 5 + [0] * 15


@pytest.mark.parametrize("rate", [0.0011, 0.01, 0.3, 0.77, 1.0])
def test_masks_are_zeros_and_ones_of_the_stated_number(rate):
    scores = scores_of((3, 3, 8, 16))
    scores.initialise(np.random.default_rng(0).normal(size=(3, 3, 8, 16)), rate)
    mask = scores.mask().numpy()
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert mask.sum() == scores.kept() == np.ceil(np.float64(scores.rate().numpy()) * 1152)
    assert float(scores.rate()) == pytest.approx(rate, rel=1e-4)


def test_counts():
    scores = scores_of((30, 40), minimum_rate=0.01)
    assert scores.size == 1200
    assert scores.least() == 14  # a rate of 1.1 * 0.01
    for count in (14, 15, 600, 1199, 1200):
        scores.set_count(count)
        assert scores.kept() == scores.mask().numpy().sum() == count


def test_config_round_trip():
    scores = scores_of((3, 4), minimum_rate=0.02)
    again = KernelScores.from_config(scores.get_config())
    assert again.get_config() == scores.get_config()
    assert [v.shape for v in again.variables] == [v.shape for v in scores.variables]
    bound = LogitRange(-3.0, 5.0)
    assert LogitRange.from_config(bound.get_config()).get_config() == bound.get_config()


def test_scores_and_rate_stay_float32_under_mixed_precision():
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert {v.dtype for v in scores_of((3, 4)).variables} == {"float32"}
    finally:
        keras.config.set_dtype_policy(previous)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_rate_that_ran_away_returns(jit_compile):
    """One step throws the logit to where a sigmoid has no slope; the penalty must still bring it back."""
    scores = scores_of((100, 50), minimum_rate=0.0005)
    scores.set_rate(0.1)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build([scores.logit])
    low, high = logit_bounds(0.0005)

    optimizer.apply([tf.constant(-1e6)], [scores.logit])
    assert float(scores.logit) == high
    for velocity in optimizer.variables[2:]:
        velocity.assign(tf.zeros(velocity.shape))

    @tf.function(jit_compile=jit_compile)
    def step():
        with tf.GradientTape() as tape:
            loss = 0.5 * hw_loss([scores.rate()], [5000], 0.005)
        optimizer.apply(tape.gradient(loss, [scores.logit]), [scores.logit])
        return loss

    losses = [float(step()) for _ in range(60)]
    assert losses[0] > 90
    assert losses[-1] == 0.0
    assert np.float32(low) <= float(scores.logit) < -3

    optimizer.apply([tf.constant(1e6)], [scores.logit])
    assert float(scores.logit) == pytest.approx(low)
    assert scores.kept() == scores.least()
