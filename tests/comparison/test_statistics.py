import math

import pytest

from harp_tf.comparison.statistics import pooled, summary


def test_several_seeds():
    found = summary([0.7, 0.8, 0.9], 1000)
    assert (found["n"], found["images"]) == (3, 1000)
    assert found["mean"] == pytest.approx(0.8) and found["sd"] == pytest.approx(0.1)
    assert found["se"] == pytest.approx(math.sqrt(0.8 * 0.2 / 1000 + 0.1**2 / 3))
    # Wilson's interval of 800 in 1000.
    assert found["ci95"] == pytest.approx([0.77409, 0.82362], abs=1e-4)


def test_more_seeds_do_not_make_the_test_set_larger():
    assert summary([0.8] * 9, 1000)["ci95"] == summary([0.8], 1000)["ci95"]
    assert summary([0.8] * 9, 1000)["se"] == pytest.approx(summary([0.8], 1000)["se"])


def test_one_seed_has_no_deviation():
    found = summary([0.8], 100)
    assert found["sd"] is None and found["se"] == pytest.approx(0.04)


def test_the_deviation_of_comparable_methods_stands_in():
    assert summary([0.8], 100, 0.03)["se"] == pytest.approx(0.05)
    assert summary([0.8], 100, 0.03)["sd"] is None
    found = summary([0.8, 0.8, 0.8], 100, 0.03)
    assert found["sd"] == 0 and found["se"] == pytest.approx(math.sqrt(0.04**2 + 0.03**2 / 3))


def test_a_pooled_deviation_weighs_by_degrees_of_freedom():
    assert pooled([[0.1, 0.3], [5.0, 5.0, 5.0], [9.0]]) == pytest.approx(math.sqrt(0.02 / 3))
    assert pooled([[0.1], [0.2]]) is None and pooled([]) is None
