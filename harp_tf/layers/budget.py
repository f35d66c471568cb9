"""The promise of a pruned model: what it may cost, what it costs, and the projection of rates that exceed it."""

import dataclasses
from collections.abc import Sequence

import keras

from harp_tf import compression
from harp_tf.layers.cost import fixed_cost, kernel_costs
from harp_tf.layers.model import PrunedKernel, pruned_kernels, pruning_spec
from harp_tf.types import HarpError

PROJECTED = "The rates exceeded the target sparsity and were projected onto it."
"""What is said where `project_to_budget` had to do something."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the prunable kernels of a model may cost, and what they cost, counted on the masks.

    Attributes:
        counts: the budget of the model's spec, "weights" or "flops" (multiply-adds for one example).
        total: their cost when nothing is removed.
        permitted: floor(a_t * total), the most that may remain.
        kept: what remains at the present rates.
    """

    counts: str
    total: int
    permitted: int
    kept: int

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.kept <= self.permitted

    def __str__(self) -> str:
        unit = compression.COST_UNITS[self.counts]
        text = f"at most {self.permitted:,} {unit} may remain, {self.kept:,} of {self.total:,} do"
        if self.kept == self.permitted:
            return text
        return f"{text}, {abs(self.permitted - self.kept):,} {'fewer' if self.met else 'too many'}"


def budget_of(model: keras.Model) -> Budget:
    """The budget of a pruned model and what its masks leave of it.

    Args:
        model: a model made by `harp_tf.prune`, with a fixed input size if the budget counts FLOPs.

    Raises:
        HarpError: if the model has no pruned layer, its layers at their floors cost more than is permitted, or FLOPs
            are asked for and the input size is open.
    """
    spec = pruning_spec(model)
    kernels = pruned_kernels(model)
    units, fixed = _unit_costs(model, kernels), fixed_cost(model)
    total = sum(kernel_costs(model)) + fixed
    permitted = compression.cost_budget(total, spec.target_rate)
    if fixed > permitted:
        unit = compression.COST_UNITS[spec.budget]
        raise HarpError(
            f"A budget of {permitted:,} of {total:,} {unit} cannot be met: {fixed:,} of them are spent on channels "
            "that are never removed, such as the model's input. Choose a lower target sparsity, or skip layers that "
            "read such channels (harp_tf.prune prints them)."
        )
    least = [unit * kernel.scores.least() for unit, kernel in zip(units, kernels, strict=True)]
    compression.require_budget(permitted - fixed, least, compression.COST_UNITS[spec.budget])
    kept = sum(unit * kernel.scores.kept() for unit, kernel in zip(units, kernels, strict=True))
    return Budget(spec.budget, total, permitted, kept + fixed)


def project_to_budget(model: keras.Model) -> bool:
    """Makes the model keep its promise: at most floor(a_t * c) of its cost c remains, counted on the masks.

    The cost is the number of weights or of multiply-adds, as the model's spec says. Rates that keep the promise
    already stay as they are. Otherwise all rate logits are shifted by one common amount and the counts apportioned
    by largest remainder, until no layer has room for one more weight. Numbers of channels become multiples of the
    spec's channel_multiple.

    Args:
        model: a model made by `harp_tf.prune`.

    Returns:
        Whether the rates exceeded the budget.

    Raises:
        HarpError: if even one weight per layer (or every rate at its floor) exceeds the budget.
    """
    budget = budget_of(model)
    kernels = pruned_kernels(model)
    units = _unit_costs(model, kernels)
    scores = [kernel.scores for kernel in kernels]
    least, most = [s.least() for s in scores], [s.most() for s in scores]
    permitted = budget.permitted - fixed_cost(model)
    counts = [
        compression.nearest_multiple(s.kept(), s.multiple, low, high)
        for s, low, high in zip(scores, least, most, strict=True)
    ]
    if sum(count * unit for count, unit in zip(counts, units, strict=True)) > permitted:
        counts = compression.project_counts(
            [float(keras.ops.convert_to_numpy(s.logit)) for s in scores],
            [s.size for s in scores],
            permitted,
            [s.minimum_rate for s in scores],
            least,
            maximum_rate=[s.maximum_rate for s in scores],
            maximum_counts=most,
            unit_costs=units,
            multiples=[s.multiple for s in scores],
            unit=compression.COST_UNITS[budget.counts],
        )
    for kernel, count in zip(kernels, counts, strict=True):
        if count != kernel.scores.kept():
            kernel.scores.set_count(count)
        kernel.follow()
    return not budget.met


def _unit_costs(model: keras.Model, kernels: Sequence[PrunedKernel]) -> list[int]:
    """What one unit of each pruned kernel costs; all units of a kernel cost the same."""
    return [cost // k.scores.size for cost, k in zip(kernel_costs(model), kernels, strict=True)]
