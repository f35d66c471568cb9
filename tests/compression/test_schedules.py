"""Learning rates and the factor of the size penalty, right at the first and the last step."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.compression import LearningRate, reaches_target, stepwise_gamma
from harp_tf.types import HarpError

GOLDEN = np.load(Path(__file__).parents[1] / "golden/harp_reference.npz", allow_pickle=False)


def rates(schedule):
    return schedule(tf.range(schedule.total_steps)).numpy()


@pytest.mark.parametrize("case", range(4))
def test_golden_gamma(case):
    base = float(GOLDEN[f"gamma/{case}/base"])
    frozen = None
    for epoch, loss in enumerate(GOLDEN[f"gamma/{case}/hw_loss_end_of_epoch"]):
        used = stepwise_gamma(base, epoch, frozen)
        if frozen is None and reaches_target(loss):
            frozen = used
        assert used == pytest.approx(GOLDEN[f"gamma/{case}/gamma_used_in_epoch"][epoch], rel=1e-6)
        expected = GOLDEN[f"gamma/{case}/frozen_after_epoch"][epoch]
        assert (math.nan if frozen is None else frozen) == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(("loss", "reached"), [(0.0, True), (4.9e-5, True), (5.1e-5, False), (0.1, False)])
def test_the_target_is_reached_at_four_decimals(loss, reached):
    assert reaches_target(loss) is reached
    assert reaches_target(np.float32(loss)) is reached


@pytest.mark.parametrize("warmup", [0, 1, 30])
@pytest.mark.parametrize("kind", LearningRate.KINDS)
def test_first_and_last_step(kind, warmup):
    schedule = LearningRate(0.1, 200, kind, warmup_steps=warmup, final=0.001)
    found = rates(schedule)
    assert found[0] == pytest.approx(0.1 / max(warmup, 1))
    assert found[max(warmup - 1, 0)] == pytest.approx(0.1)
    assert found[warmup] == pytest.approx(0.1)
    assert found.max() == pytest.approx(0.1)
    assert found[-1] == pytest.approx({"cosine": 0.001, "step": 0.001, "constant": 0.1}[kind])
    # A stage that is trained on stays at the end.
    assert schedule(250) == found[-1]


def test_cosine_reaches_zero_at_the_last_step():
    assert rates(LearningRate(0.1, 391 * 100))[-1] == 0.0


def test_cosine_is_half_way_in_the_middle():
    assert rates(LearningRate(0.2, 101))[50] == pytest.approx(0.1)


def test_warm_up_rises_in_a_line():
    np.testing.assert_allclose(rates(LearningRate(0.5, 20, warmup_steps=5))[:5], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 20])
def test_no_two_epochs_share_a_cosine_rate(warmup):
    found = rates(LearningRate(0.1, 20 * 10, warmup_steps=warmup))
    assert len(set(found[::10])) == 20
    assert (np.diff(found[warmup:]) < 0).all()


def test_step_drops_twice():
    found = rates(LearningRate(1.0, 100, "step"))
    np.testing.assert_allclose(found, [1.0] * 50 + [0.1] * 25 + [0.01] * 25, rtol=1e-6)


def test_a_stage_of_one_step():
    for kind in LearningRate.KINDS:
        assert rates(LearningRate(0.1, 1, kind)).tolist() == pytest.approx([0.1])


def test_config_round_trip():
    schedule = LearningRate(0.3, 70, "step", warmup_steps=7, final=0.01)
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(again), rates(schedule))


def test_drives_an_optimizer():
    variable = keras.Variable(1.0)
    optimizer = keras.optimizers.SGD(LearningRate(0.5, 3))
    for expected in (0.5, 0.25, 0.0):
        assert float(optimizer.learning_rate) == pytest.approx(expected, abs=1e-7)
        optimizer.apply([tf.constant(1.0)], [variable])
    assert float(variable) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "linear"}, "must be one of cosine, step, constant, received 'linear'"),
        ({"total_steps": 0}, "received total_steps=0"),
        ({"warmup_steps": 11}, "warmup_steps=11"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"initial": 0.0}, "initial=0.0"),
        ({"initial": math.nan}, "initial=nan"),
        ({"initial": math.inf}, "initial=inf"),
        ({"final": -0.1}, "final=-0.1"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(HarpError, match=message):
        LearningRate(**{"initial": 0.1, "total_steps": 10, **arguments})
