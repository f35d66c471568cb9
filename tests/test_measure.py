"""What is measured at which radius; how whole models and files are measured is tested in test_evaluate.py."""

import keras
import numpy as np
import pytest

from harp_tf import data
from harp_tf.config import RunConfig
from harp_tf.measure import Measurement, _on_curve, final_attacks, radii


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ((), [0.1]),
        (("0.2", "0.05", "0.1"), [0.1, 0.2, 0.05]),  # the run's own first
        (("0.2", "0.20"), [0.2]),
        (("0", "0.3"), [0.0, 0.3]),
    ],
)
def test_radii(listed, expected):
    assert radii(RunConfig(eps=0.1, eps_list=listed)) == expected


def test_which_radii_a_curve_tells_of():
    curve = {"eps": [0.0, 0.05, 0.1], "robust_accuracy": [1.0, 0.9, 0.7]}
    figures = {"attacks": {"fmn": [{"eps": 0.05}, {"eps": 0.05, "curve": curve}], "pgd20": [{"eps": 0.1}]}}
    older = {"attacks": {"fmn": [*figures["attacks"]["fmn"], {"eps": 0.1}]}}
    assert not _on_curve(older, "fmn", 0.1)
    assert _on_curve(figures, "fmn", 0.1) and not _on_curve(figures, "fmn", 0.2)
    assert not _on_curve(figures, "pgd20", 0.1) and not _on_curve({}, "fmn", 0.1)


def test_the_attack_of_an_evaluation_unless_others_are_named():
    (name,) = final_attacks(RunConfig(eps=0.1, eval_steps=7), 0.1)
    assert name == "pgd7"
    assert list(final_attacks(RunConfig(attacks=("APGD-CE", "square10"), norm="l2"), 0.5)) == ["apgd_ce", "square10"]


@pytest.mark.parametrize(
    ("given", "eps", "step_size"),
    [(None, 0.1, 0.01), (None, 0.3, 0.03), (0.02, 0.1, 0.02), (0.02, 0.3, 0.06), (0.02, 0, 0)],
)
def test_the_step_grows_with_the_radius(given, eps, step_size):
    (attack,) = final_attacks(RunConfig(eps=0.1, eval_step_size=given), eps).values()
    assert attack.eps == eps and attack.step_size == pytest.approx(step_size)


def test_a_run_without_a_radius():
    (attack,) = final_attacks(RunConfig(eps=0.0, eval_step_size=0.01), 0.1).values()
    assert attack.step_size == pytest.approx(0.01)


def test_a_network_in_half_precision_is_not_robust_because_its_gradients_vanish(tmp_path):
    splits = data.load("digits", seed=0)
    images, labels = splits.train.arrays()
    pixels = images.reshape(len(images), -1) - 0.5
    weights = np.linalg.lstsq(pixels, np.eye(10)[labels], rcond=None)[0]

    def figures(policy):
        inputs = keras.Input(images.shape[1:])
        dense = keras.layers.Dense(10, use_bias=False, dtype=policy)
        model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs - 0.5)))
        dense.set_weights([60.0 * weights])  # so confident that the gradients are no float16 numbers
        model.save(tmp_path / "model.keras")
        config = RunConfig(dataset="digits", eps=0.05, attacks=("pgd5",), robust_limit=60)
        (found,) = Measurement(config, splits).of_keras("model", model, tmp_path / "model.keras").values()
        checks = {finding["check"] for entries in found["attacks"].values() for e in entries for finding in e["checks"]}
        return found["natural_accuracy"], found["robust_accuracy"]["pgd5"], checks

    natural, robust, checks = figures("float32")
    half = figures("mixed_float16")
    assert natural > 0.85 and robust < natural - 0.3
    assert half[0] == pytest.approx(natural, abs=0.01) and half[1] == pytest.approx(robust, abs=0.04)
    assert half[2] == checks
