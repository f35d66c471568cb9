"""What is measured at which radius; how whole models and files are measured is tested in test_evaluate.py."""

import pytest

from harp_tf.config import RunConfig
from harp_tf.measure import final_attacks, radii


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
