"""Pruning methods of the user's own."""

import json

import numpy as np
import pytest

import harp_tf
from harp_tf import pruning, register_method, strategies
from harp_tf.baselines import METHODS, WEIGHTS_ONLY, Method, keep_all, keep_largest
from harp_tf.comparison import Axes, plan
from harp_tf.comparison.groups import groups
from harp_tf.config import RunConfig
from harp_tf.layers import pruned_kernels
from harp_tf.types import HarpError
from tests.conftest import tiny_model
from tests.report.conftest import cell
from tests.runs import WEIGHTS, counts, kernels, read

MODULE = """
import harp_tf
from harp_tf.baselines import Method

harp_tf.register_method("of_a_module", Method(trains=None))
"""


def keep_last(network, seed):
    """Keeps the last weights of each kernel."""
    for kernel in pruned_kernels(network):
        keep_largest(kernel, np.arange(1.0, kernel.scores.size + 1.0).reshape(kernel.variable.shape))


MINE = Method(start=keep_last, trains=None, only=WEIGHTS_ONLY)


@pytest.fixture
def known():
    """What is registered is forgotten after the test."""
    before = dict(METHODS)
    yield METHODS
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def mine(known):
    register_method("mine", MINE)


def test_other_rates_take_the_place_of_a_rule_of_ones_own(known):
    def halves(sizes, target_rate):
        return dict.fromkeys(sizes, target_rate / 2)

    register_method("ruled", Method(rule=halves, start=keep_last, trains=None, only=WEIGHTS_ONLY))
    assert pruning.strategy_of(RunConfig(method="ruled")) is halves
    assert pruning.strategy_of(RunConfig(method="ruled", strategy="lamp")) is strategies.get("lamp")


@pytest.mark.parametrize(
    "wrong, found", [(lambda v: v[..., :1], "values of the shape"), (lambda v: v / 0, "not finite")]
)
def test_values_that_order_nothing_are_refused(wrong, found):
    network = harp_tf.prune(tiny_model(), target_sparsity=0.9, mode="score", verbose=False)
    kernel = pruned_kernels(network)[0]
    with np.errstate(all="ignore"), pytest.raises(HarpError, match=f"finite number per weight of .*received .*{found}"):
        keep_largest(kernel, wrong(np.zeros(kernel.variable.shape)))


def test_names(known):
    register_method("mine_2", MINE)
    register_method("mine_2", MINE)  # as in a module that is loaded twice
    assert known["mine_2"] == MINE
    for name in ("", "Mine", "2nd", "a@b", "a b", "dense_mine", "harp_mine"):
        with pytest.raises(HarpError, match="must be of lower-case letters.*received"):
            register_method(name, MINE)
    for name in ("lwm", "mine_2"):
        with pytest.raises(HarpError, match=f"another method '{name}' already"):
            register_method(name, Method())


@pytest.mark.usefixtures("mine", "no_plots")
def test_a_run(tiny):
    run = tiny(method="mine", finetune_epochs=1)
    run.run()
    rates = read(run.dir / "rates.json")
    assert rates["method"] == "mine" and sum(counts(rates).values()) <= rates["budget"]
    for name, kernel in kernels(run.dir / "pruned.keras").items():
        assert not kernel.ravel()[: kernel.size - counts(rates)[f"{name}/kernel"]].any()
    with pytest.raises(HarpError, match="The method mine knows no granularity but 'weight'"):
        tiny(method="mine", granularity="channel")


@pytest.mark.usefixtures("known", "no_plots")
def test_a_method_that_breaks_the_budget(tiny):
    register_method("greedy", Method(start=lambda network, seed: keep_all(pruned_kernels(network)), trains=None))
    with pytest.raises(HarpError, match=f"The method greedy left {WEIGHTS:,} weights where target_sparsity permits"):
        tiny(method="greedy").run()


@pytest.mark.usefixtures("mine")
def test_a_comparison():
    axes = Axes(("harp", "mine", "mine@lamp", "lwm"), (0.9,), ("pgd",), (0,))
    cells = {one.method: one for one in plan(RunConfig(import_modules=("my_methods",)), axes)}
    assert cells["mine"].name == "mine_90_pgd_seed0" and cells["mine@lamp"].config.strategy == "lamp"
    assert {"--method=mine", "--import_modules=my_methods"} <= set(cells["mine"].command().split())
    found = groups([cell(method, 0.9, 0.8, 0.5) for method in ("mine", "tfmot", "harp")])
    assert [group["method"] for group in found] == ["harp", "tfmot", "mine"]


def test_on_the_command_line(known, program, tmp_path, monkeypatch):
    (tmp_path / "module_with_a_method.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["train", "--method=of_a_module", "--dataset=npz:missing.npz", f"--run_dir={tmp_path / 'run'}"]
    assert "method must be one of harp, harp_joint," in program(*arguments).err
    ended = program(*arguments, "--import_modules=module_with_a_method")
    assert ended.status != 0 and "missing.npz" in ended.err and "must be one of" not in ended.err
    assert "of_a_module" in known


def test_a_stored_run_of_an_unknown_method(program, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"flags": {"method": "of_a_module"}}))
    ended = program("evaluate", f"--target={tmp_path}")
    assert "received 'of_a_module'. Name the module that registers this method with --import_modules" in ended.err
