"""What the rooms of harp_tf say to each other: errors and frozen, validated values."""

import dataclasses
import numbers
import re
from collections.abc import Collection, Sequence
from typing import TypeGuard


class HarpError(ValueError):
    """A mistake the caller can mend.

    The message says what was expected, what was received and what to do. The command-line programs
    print it as one line, without a traceback, and exit with a non-zero status.
    """


GRANULARITIES = ("weight", "channel")
PRUNE_MODES = ("harp", "score", "rate")
BUDGETS = ("weights", "flops")
RATE_GRADIENTS = ("sum", "marginal")
STAGES = ("prune", "joint", "finetune")
AUGMENTATIONS = ("auto", "none", "shift", "shift+mirror")


@dataclasses.dataclass(frozen=True)
class PruningSpec:
    """How a model is pruned; every pruned layer of a model carries the same one.

    Attributes:
        target_sparsity: fraction of the prunable weights that is removed, in (0, 1).
        mode: "harp" trains scores and rates, "score" the scores only, "rate" the rates only.
        budget: what L_hw counts, "weights" or "flops" (multiply-adds at the model's input size).
        floor_factor: alpha in (0, 1); no learned rate falls below alpha * target rate.
        granularity: what a score stands for; "weight" is a single weight, "channel" an input channel of a layer, with
            all layers that read it.
        channel_multiple: a number of which the kept channels of a layer are a multiple when the prune stage ends, where
            there are twice as many and the budget allows it; 1 leaves them as they are.
        rate_gradient: how rates learn from the loss: by the paper's "sum" over all mask entries, or by the "marginal"
            value of one more (see `compression.straight_through_mask`).
        stage: "prune", "joint" or "finetune", what the model is set to train (see `harp_tf.set_stage`).
    """

    target_sparsity: float
    mode: str = "harp"
    budget: str = "weights"
    floor_factor: float = 0.1
    granularity: str = "weight"
    channel_multiple: int = 8
    rate_gradient: str = "sum"
    stage: str = "prune"

    def __post_init__(self):
        if not is_number(self.target_sparsity) or not 0.0 < self.target_sparsity < 1.0:
            raise HarpError(
                "target_sparsity must be a number strictly between 0 and 1 (0.99 removes 99 % of the weights), "
                f"received {self.target_sparsity!r}. To train without pruning, leave out the prune stage."
            )
        require_choice("mode", self.mode, PRUNE_MODES)
        require_choice("budget", self.budget, BUDGETS)
        require_choice("granularity", self.granularity, GRANULARITIES)
        require_choice("rate_gradient", self.rate_gradient, RATE_GRADIENTS)
        require_choice("stage", self.stage, STAGES)
        if not is_number(self.floor_factor) or not 0.0 < self.floor_factor < 1.0:
            raise HarpError(
                f"floor_factor must be a number strictly between 0 and 1, received {self.floor_factor!r}. Each layer "
                "keeps at least this share of the target rate; 0.1 is the default."
            )
        if not is_count(self.channel_multiple):
            raise HarpError(
                f"channel_multiple must be a whole number of at least 1, received {self.channel_multiple!r}. "
                "Processors like 8; 1 rounds nothing."
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


@dataclasses.dataclass(frozen=True)
class RateBound:
    """A floor and a ceiling for the rates of some layers.

    Attributes:
        layers: a regular expression. It is about what it matches in full: the name or path of a layer or of a model
            that is nested, or the path of a kernel. A name matches itself.
        low: the smallest rate, in (0, 1]; None leaves the floor of the spec, alpha * target rate.
        high: the largest rate, in (0, 1]; None is 1. Equal bounds fix the rate.
    """

    layers: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self):
        try:
            re.compile(self.layers)
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            raise HarpError(
                "rate_bounds expects names, paths or regular expressions of layers, received "
                f"{self.layers!r} ({error})."
            ) from error
        for bound in (self.low, self.high):
            if bound is not None and (not is_number(bound) or not 0.0 < bound <= 1.0):
                raise HarpError(
                    f"rate_bounds of {self.layers!r} must be fractions kept in (0, 1], received {bound!r}. Leave out "
                    "a bound that is not wanted."
                )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise HarpError(
                f"rate_bounds of {self.layers!r} must be (smallest, largest), received {(self.low, self.high)}."
            )

    @classmethod
    def parse(cls, text: str) -> "RateBound":
        """Reads "conv1=0.1:0.5", where a bound may be left out: "conv1=0.1:" or "conv1=:0.5"."""
        layers, _, bounds = text.rpartition("=")
        low, colon, high = bounds.partition(":")
        try:
            values = [float(bound) if bound else None for bound in (low, high)]
        except ValueError:
            colon = ""
        if not layers or not colon:
            raise HarpError(
                "rate_bounds must be written layer=smallest:largest, e.g. conv1=0.1:0.5 or conv1=0.1:, received "
                f"{text!r}."
            )
        return cls(layers, *values)

    def matches(self, path: str) -> bool:
        """Whether the bound is about the kernel of this path, e.g. "block1/conv1/kernel"."""
        parts = path.split("/")
        names = {*parts[:-1], *("/".join(parts[: i + 1]) for i in range(len(parts)))}
        return any(re.fullmatch(self.layers, name) for name in names)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def parse_number(text: str) -> float:
    """The number of a text such as "0.03" or, as radii are quoted, "8/255".

    Raises:
        ValueError: if it is neither a number nor a quotient of two.
    """
    numerator, slash, denominator = text.partition("/")
    if not slash:
        return float(text)
    try:
        return float(numerator) / float(denominator)
    except ZeroDivisionError as error:
        raise ValueError(f"could not divide by 0 in {text!r}") from error


def is_count(value: object) -> TypeGuard[int]:
    """Whether `value` is a plain whole number >= 1, as JSON can hold it; True is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require_choice(what: str, value: object, choices: Collection[str]) -> None:
    """Raises a HarpError unless `value` is one of `choices`."""
    if value not in list(choices):  # which asks for no hash
        raise HarpError(f"{what} must be one of {', '.join(choices)}, received {value!r}.")


def require_class_names(names: Sequence[str]) -> None:
    """Raises a HarpError unless these are different texts that fit on a line: labels.txt has one a line."""
    wrong = [name for name in names if not name.strip() or not name.isprintable()]
    if wrong or len(set(names)) != len(names):
        raise HarpError(f"class_names must be different printable texts, received {', '.join(map(repr, names))}.")
