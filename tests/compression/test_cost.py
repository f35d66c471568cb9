"""What layers cost, and the penalty on it."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.compression import hw_loss, multiply_adds, overall_rate, rate_from_logit

GOLDEN = np.load(Path(__file__).parents[1] / "golden/harp_reference.npz", allow_pickle=False)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_golden_penalty_and_its_gradient(case, mode):
    sizes = GOLDEN["hw/layer_sizes"].tolist()
    golden = {key: GOLDEN[f"hw/case{case}/{key}"] for key in ("target", "alpha", "k_scores", "rates", "rate", "loss")}
    target = float(golden["target"])

    def penalty(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            rates = [rate_from_logit(logit, float(golden["alpha"]) * target) for logit in tf.unstack(logits)]
            loss = hw_loss(rates, sizes, target)
        return tf.stack(rates), overall_rate(rates, sizes), loss, tape.gradient(loss, logits)

    if mode != "eager":
        penalty = tf.function(penalty, jit_compile=mode == "xla")
    rates, rate, loss, gradient = penalty(tf.constant(golden["k_scores"]))
    np.testing.assert_allclose(rates, golden["rates"], rtol=1e-6)
    np.testing.assert_allclose(rate, golden["rate"], rtol=1e-6)
    # The ratio to the target is what is rounded; the loss is that minus 1.
    np.testing.assert_allclose(loss + 1, golden["loss"] + 1, rtol=1e-6)
    np.testing.assert_allclose(gradient, GOLDEN[f"hw/case{case}/d_k_scores"], rtol=1e-6)


def test_the_penalty_by_hand():
    rates = [tf.constant(0.5), tf.constant(0.25)]
    assert overall_rate(rates, [100, 300]).numpy() == 0.3125
    assert hw_loss(rates, [100, 300], 0.125).numpy() == 1.5
    assert hw_loss(rates, [100, 300], 0.3125).numpy() == 0.0
    assert hw_loss(rates, [100, 300], 0.5).numpy() == 0.0


def test_costs_in_flops_may_be_large():
    # 15 billion multiply-adds do not fit float32 exactly; the shares do.
    costs = [15_470_264_320 // 2, 15_470_264_320 // 2]
    assert overall_rate([tf.constant(1.0), tf.constant(1.0)], costs).numpy() == 1.0


def test_multiply_adds():
    assert multiply_adds(3 * 3 * 16 * 32, 14 * 14) == 903_168
    assert multiply_adds(1280, 1) == 1280
