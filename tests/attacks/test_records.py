"""Joining figures of several evaluations; every number here is made up."""

import numpy as np
import pytest

from harp_tf.answers import packed
from harp_tf.attacks.records import merge


def entry(accuracy, eps=0.1, n=1000, norm="linf", seed=0, **more):
    return {"norm": norm, "eps": eps, "n": n, "robust_accuracy": accuracy, "seed": seed, "settings": {}, **more}


def figures(natural=0.9, **attacks):
    return {"natural_accuracy": natural, "n_test": 1000, "attacks": attacks, "robust_accuracy": {}, "n_robust": 0}


def joined(*news):
    found = {}
    for new in news:
        found = merge(found, new, "linf", 0.1)
    return found


def test_another_radius_or_norm_never_touches_the_runs_figure():
    found = joined(
        figures(pgd20=entry(0.7)),
        figures(pgd20=entry(0.3, eps=0.2)),
        figures(pgd20=entry(0.2, norm="l2")),
        figures(square=entry(0.4, eps=0.2)),
    )
    assert found["robust_accuracy"] == {"pgd20": 0.7} and found["n_robust"] == 1000
    assert [e["robust_accuracy"] for e in found["attacks"]["pgd20"]] == [0.7, 0.3, 0.2]
    assert [e["robust_accuracy"] for e in found["attacks"]["square"]] == [0.4]


def test_fewer_images_join_but_do_not_replace_more():
    found = joined(figures(pgd20=entry(0.7)), figures(pgd20=entry(0.8, n=50)))
    assert found["robust_accuracy"] == {"pgd20": 0.7} and found["n_robust"] == 1000
    assert [(e["n"], e["robust_accuracy"]) for e in found["attacks"]["pgd20"]] == [(1000, 0.7), (50, 0.8)]
    found = joined(figures(pgd20=entry(0.8, n=50)), figures(pgd20=entry(0.7)))
    assert found["robust_accuracy"] == {"pgd20": 0.7} and found["n_robust"] == 1000


def test_the_same_measurement_again_takes_the_place_of_the_first_and_another_seed_does_not():
    found = joined(figures(pgd20=entry(0.7)), figures(pgd20=entry(0.71)))
    assert [e["robust_accuracy"] for e in found["attacks"]["pgd20"]] == [0.71]
    found = joined(figures(pgd20=entry(0.7)), figures(pgd20=entry(0.69, seed=1)))
    assert [e["robust_accuracy"] for e in found["attacks"]["pgd20"]] == [0.7, 0.69]
    assert found["robust_accuracy"] == {"pgd20": 0.69}  # the newest of equally many


def test_n_robust_is_the_fewest_images_behind_the_figures():
    found = joined(figures(pgd20=entry(0.7)), figures(autoattack=entry(0.6, n=200)))
    assert found["robust_accuracy"] == {"pgd20": 0.7, "autoattack": 0.6} and found["n_robust"] == 200


def test_figures_of_earlier_versions_are_kept():
    earlier = {"natural_accuracy": 0.9, "robust_accuracy": {"pgd10": 0.75}, "n_robust": 500, "file_bytes": 7}
    found = merge(earlier, figures(pgd20=entry(0.7)), "linf", 0.1)
    assert found["robust_accuracy"] == {"pgd10": 0.75, "pgd20": 0.7}
    assert found["n_robust"] == 500 and found["file_bytes"] == 7


def test_a_figure_at_another_radius_is_no_headline_of_a_later_one():
    other = merge({}, figures(pgd20=entry(0.6, eps=0.03)), "linf", 0.03)
    found = merge(other, figures(square=entry(0.3)), "linf", 0.1)
    assert found["robust_accuracy"] == {"square": 0.3}
    assert [e["eps"] for e in found["attacks"]["pgd20"]] == [0.03]


def test_merging_changes_none_of_its_arguments():
    earlier = merge({}, figures(pgd20=entry(0.7)), "linf", 0.1)
    before = repr(earlier)
    merge(earlier, figures(pgd20=entry(0.3, eps=0.2)), "linf", 0.1)
    assert repr(earlier) == before


def test_the_curve_has_all_radii_of_the_norm_and_begins_at_the_natural_accuracy():
    found = joined(
        figures(pgd20=entry(0.7), square=entry(0.8)),
        figures(pgd20=entry(0.3, eps=0.2)),
        figures(pgd20=entry(0.9, eps=0.05, n=10)),
        figures(pgd20=entry(0.8, eps=0.05)),
        figures(pgd20=entry(0.1, eps=0.3, norm="l2")),
    )
    assert found["security_curve"] == {
        "pgd20": {"norm": "linf", "eps": [0.0, 0.05, 0.1, 0.2], "robust_accuracy": [0.9, 0.8, 0.7, 0.3]}
    }


def test_the_curve_begins_at_the_natural_accuracy_of_the_images_that_were_attacked():
    right = np.arange(1000) % 10 != 0
    right[:100] = np.arange(100) < 60
    known = {**figures(natural=float(right.mean())), "right": packed(right)}
    few = [{**known, "attacks": {"pgd20": entry(0.5, eps=eps, n=100)}} for eps in (0.1, 0.2)]
    assert joined(*few)["security_curve"]["pgd20"]["robust_accuracy"] == [0.6, 0.5, 0.5]
    more = {**known, "attacks": {"pgd20": entry(0.4, eps=0.2)}}
    assert joined(*few, more)["security_curve"]["pgd20"]["robust_accuracy"][0] == right.mean()


def test_an_attack_that_finds_distances_gives_its_own_curve():
    curve = {"eps": [0.0, 0.1, 0.2], "robust_accuracy": [0.88, 0.7, 0.2]}
    found = joined(figures(fmn=entry(0.7, curve=curve)))
    # On the attacked images; what is right without an attack is known of all.
    assert found["security_curve"]["fmn"] == {**curve, "norm": "linf", "robust_accuracy": [0.9, 0.7, 0.2]}


@pytest.mark.parametrize("few_first", [True, False])
def test_a_curve_on_few_images_takes_no_place_of_one_on_more(few_first):
    eps = 21 / 255
    computed = 10 * (2 * eps / 20)
    assert computed != eps  # one radius all the same
    many = entry(0.6, eps, curve={"eps": [0.0, eps / 2, computed], "robust_accuracy": [0.88, 0.75, 0.6]})
    few = entry(0.8, eps, n=20, curve={"eps": [0.0, eps / 2, computed], "robust_accuracy": [1.0, 0.9, 0.8]})
    news = [figures(fmn=few), figures(fmn=many)]
    found = joined(*(news if few_first else news[::-1]))
    assert found["security_curve"]["fmn"] == {
        "norm": "linf",
        "eps": [0.0, eps / 2, eps],
        "robust_accuracy": [0.9, 0.75, 0.6],
    }


@pytest.mark.parametrize("earlier", [{}, {"robust_accuracy": {}}])
def test_nothing_attacked(earlier):
    found = merge(earlier, figures(), "linf", 0.1)
    assert found["robust_accuracy"] == {} and found["n_robust"] == 0 and found["security_curve"] == {}
