"""The promise of a pruned model, in weights and in multiply-adds."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.layers import (
    Budget,
    budget_of,
    describe,
    kernel_nonzeros,
    layer_costs,
    project_to_budget,
    prune,
    pruned_kernels,
    rate_table,
    strip,
)
from harp_tf.types import HarpError
from tests.layers.nets import SIZES, small_net, trained

FLOPS = [144 * 100, 1440 * 16, 48_000, 2100]
TOTAL = {"weights": sum(SIZES), "flops": sum(FLOPS)}


def cost(model, budget):
    """What is left of a model, counted on its kernels."""
    uses = {
        path: 1 if budget == "weights" else cost.multiply_adds // cost.weights
        for path, cost in layer_costs(model).items()
    }
    return sum(kept * uses[path] for path, (_, kept) in kernel_nonzeros(model).items())


@pytest.mark.parametrize(
    ("sparsity", "budget"),
    [(s, "weights") for s in (0.9, 0.95, 0.99, 0.995, 0.999)] + [(s, "flops") for s in (0.9, 0.95, 0.99, 0.995)],
)
def test_projection_keeps_the_promise(sparsity, budget):
    model = trained(prune(small_net(), sparsity, budget=budget, verbose=False), seed=round(1000 * sparsity))
    permitted = round(TOTAL[budget] * (1 - sparsity) - 0.5 + 1e-6)
    before = [kernel.scores.scores.numpy() for kernel in pruned_kernels(model)]
    assert budget_of(model) == Budget(budget, TOTAL[budget], permitted, cost(model, budget))
    assert not budget_of(model).met
    assert project_to_budget(model) is True
    after = budget_of(model)
    # A weight of the last layers costs one multiply-add: nothing of the budget is left over.
    assert after.kept == permitted == cost(model, budget)
    for kernel, scores in zip(pruned_kernels(model), before, strict=True):
        mask = kernel.scores.mask().numpy()
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.sum() == kernel.scores.kept() >= 1
        np.testing.assert_array_equal(kernel.scores.scores, scores)
        # A step of the optimiser applies the bounds of the logits; they must not break the promise.
        kernel.scores.logit.assign(kernel.scores.logit.constraint(kernel.scores.logit))
    kept = {path: (row["weights"], row["kept"]) for path, row in rate_table(model).items()}
    assert kernel_nonzeros(strip(model)) == kernel_nonzeros(model) == kept
    assert cost(strip(model), budget) == permitted
    assert project_to_budget(model) is False


def test_a_promise_in_multiply_adds_is_another_one():
    """Convolutions pay for every position of their kernel: the same logits keep fewer of their weights."""
    kept = {}
    for budget in ("weights", "flops"):
        model = prune(small_net(), 0.9, budget=budget, verbose=False)
        for kernel in pruned_kernels(model):
            kernel.scores.set_rate(0.5)
        project_to_budget(model)
        kept[budget] = [row["kept"] for row in rate_table(model).values()]
        rates = np.array(kept[budget]) / SIZES
        assert np.ptp(rates) < 0.01  # one common shift of equal logits
    assert kept["weights"] != kept["flops"]
    assert cost(model, "weights") > 0.1 * sum(SIZES) - 10
    assert np.dot(kept["flops"], [100, 16, 1, 1]) == budget_of(model).permitted == 8754


def test_what_no_weight_fits_into_is_left():
    model = keras.Sequential([keras.Input((9, 9, 2)), layers.Conv2D(4, 3, name="a"), layers.Conv2D(3, 2, name="b")])
    pruned = prune(model, 0.9, budget="flops", verbose=False)
    for kernel in pruned_kernels(pruned):
        kernel.scores.set_rate(0.9)
    project_to_budget(pruned)
    budget = budget_of(pruned)  # 49 multiply-adds for a weight of a, 36 for one of b
    assert budget.permitted == (72 * 49 + 48 * 36) // 10
    assert 0 <= budget.permitted - budget.kept < 36
    assert str(budget) == (
        f"at most 525 multiply-adds may remain, {budget.kept} of 5,256 do"
        + (f", {525 - budget.kept} fewer" if budget.kept < 525 else "")
    )
    assert str(budget) in describe(pruned)


@pytest.mark.parametrize("budget", ["weights", "flops"])
def test_rates_within_the_budget_stay(budget):
    model = trained(prune(small_net(), 0.9, budget=budget, verbose=False))
    for kernel in pruned_kernels(model):
        kernel.scores.set_rate(0.09)
    before = rate_table(model)
    assert project_to_budget(model) is False
    assert rate_table(model) == before
    assert "fewer" in str(budget_of(model))


def test_a_network_at_the_upper_bounds_is_projected():
    model = prune(small_net(), 0.999, verbose=False)
    for kernel in pruned_kernels(model):
        kernel.scores.logit.assign(38.7)
    assert "too many" in str(budget_of(model))
    assert project_to_budget(model)
    assert sum(count for _, count in kernel_nonzeros(model).values()) == 51


@pytest.mark.parametrize("budget", ["weights", "flops"])
def test_fixed_rates_keep_the_promise_from_the_start(budget):
    model = prune(small_net(), 0.95, mode="score", strategy="erk", budget=budget, verbose=False)
    assert budget_of(model).met
    assert cost(model, budget) == budget_of(model).kept


def test_a_budget_that_cannot_be_met():
    model = keras.Sequential([keras.Input((9, 9, 2)), layers.Conv2D(4, 3), layers.Conv2D(3, 2)])
    with pytest.raises(HarpError, match="budget of 52 multiply-adds cannot be met: the 2 prunable layers .* least 85"):
        prune(model, 0.99, budget="flops", verbose=False)
    with pytest.raises(HarpError, match="budget of 1 weights cannot be met"):
        prune(model, 0.99, verbose=False)
