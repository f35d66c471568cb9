"""What the rooms of harp_tf say to each other: errors and frozen, validated values."""

import dataclasses
import numbers
from typing import TypeGuard


class HarpError(ValueError):
    """A mistake the caller can mend.

    The message says what was expected, what was received and what to do. The command-line programs
    print it as one line, without a traceback, and exit with a non-zero status.
    """


GRANULARITIES = ("weight",)
PRUNE_MODES = ("harp", "score", "rate")
BUDGETS = ("weights", "flops")


@dataclasses.dataclass(frozen=True)
class PruningSpec:
    """How a model is pruned; every pruned layer of a model carries the same one.

    Attributes:
        target_sparsity: fraction of the prunable weights that is removed, in (0, 1).
        mode: "harp" trains scores and rates, "score" the scores only, "rate" the rates only.
        budget: what L_hw counts, "weights" or "flops" (multiply-adds at the model's input size).
        floor_factor: alpha in (0, 1); no learned rate falls below alpha * target rate.
        granularity: what a score stands for; "weight" is a single weight.
    """

    target_sparsity: float
    mode: str = "harp"
    budget: str = "weights"
    floor_factor: float = 0.1
    granularity: str = "weight"

    def __post_init__(self):
        if not is_number(self.target_sparsity) or not 0.0 < self.target_sparsity < 1.0:
            raise HarpError(
                "target_sparsity must be a number strictly between 0 and 1 (0.99 removes 99 % of the weights), "
                f"received {self.target_sparsity!r}. To train without pruning, leave out the prune stage."
            )
        require_choice("mode", self.mode, PRUNE_MODES)
        require_choice("budget", self.budget, BUDGETS)
        require_choice("granularity", self.granularity, GRANULARITIES)
        if not is_number(self.floor_factor) or not 0.0 < self.floor_factor < 1.0:
            raise HarpError(
                f"floor_factor must be a number strictly between 0 and 1, received {self.floor_factor!r}. Each layer "
                "keeps at least this share of the target rate; 0.1 is the default."
            )
        # Plain floats, so that the spec can be written to JSON.
        object.__setattr__(self, "target_sparsity", float(self.target_sparsity))
        object.__setattr__(self, "floor_factor", float(self.floor_factor))

    @property
    def target_rate(self) -> float:
        """a_t, the fraction of the network that is kept: the only place where sparsity becomes rate."""
        return 1.0 - self.target_sparsity

    @property
    def minimum_rate(self) -> float:
        """a_min, the smallest rate of a layer: alpha * a_t, or 0 in mode "score", where no rate is learned."""
        return 0.0 if self.mode == "score" else self.floor_factor * self.target_rate

    def as_dict(self) -> dict:
        """The fields as a JSON-serialisable dict; `PruningSpec(**d)` is the inverse."""
        return dataclasses.asdict(self)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def require_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises a HarpError unless `value` is one of `choices`."""
    if value not in choices:
        raise HarpError(f"{what} must be one of {', '.join(choices)}, received {value!r}.")
