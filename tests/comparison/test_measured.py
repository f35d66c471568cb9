"""What counts as measured; every figure here is invented."""

import json

import pytest

from harp_tf.comparison.cells import Cell
from harp_tf.comparison.measured import is_measured
from harp_tf.config import RunConfig

CURVE = {"eps": [0.0, 0.05, 0.1, 0.15000000000000002, 0.2], "robust_accuracy": [0.9, 0.8, 0.7, 0.6, 0.5]}


def entry(eps=0.1, norm="linf", n=200, **more):
    return {"norm": norm, "eps": eps, "n": n, "robust_accuracy": 0.7, "checks": [], **more}


@pytest.mark.parametrize(
    "eps_list, entries, expected",
    [
        ((), [entry()], True),
        ((), [entry(n=100)], False),
        (("0.1", "0.05"), [entry()], False),
        (("0.1", "0.05"), [entry(), entry(0.05)], True),
        (("0.1", "0.15"), [entry(curve=CURVE)], True),
        (("0.1", "0.15", "0.3"), [entry(curve=CURVE)], False),
        (("0.1", "0.15", "0.3"), [entry(curve=CURVE), entry(0.3)], True),
        (("0.1", "0.15"), [entry(), entry(n=100, curve=CURVE)], False),
        (("0.1", "0.15"), [entry(), entry(norm="l2", curve=CURVE)], False),
    ],
)
def test_every_radius_is_an_entry_or_on_a_curve_of_as_many_images(eps_list, entries, expected, tmp_path):
    config = RunConfig(run_dir=str(tmp_path), eps=0.1, eps_list=eps_list, attacks=("fmn",), robust_limit=200)
    (tmp_path / "results.json").write_text(json.dumps({"dense": {"n_test": 1000, "attacks": {"fmn": entries}}}))
    assert is_measured(Cell("dense", None, "pgd", 0, config)) is expected
