"""What a pruning method is: the masks it starts from, and what it trains in the prune stage."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from harp_tf.layers import PrunedKernel
from harp_tf.strategies import Strategy
from harp_tf.training import AdversarialModel
from harp_tf.types import HarpError

WEIGHTS_ONLY = MappingProxyType({"granularity": "weight", "budget": "weights", "rate_bounds": (), "initial_rate": None})
"""What `Method.only` says of a method that removes single weights to a budget of weights, at rates that stay."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way from a dense model to the masks under which it is finetuned.

    Every method works on the network that `harp_tf.prune` wraps, and its product are that network's scores and rates:
    what strips, exports and measures a model asks for nothing else.

    Attributes:
        mode: what the pruned layers learn in the prune stage, see `PruningSpec.mode`.
        strategy: name of the rates that it starts from.
        other_rates: whether they may be replaced by those of another strategy.
        rule: the function that gives these rates, where it is none of `harp_tf.strategies`.
        start: sets the scores of the wrapped network, given the seed of the run; None leaves those of `harp_tf.prune`.
        trains: what the network trains in the prune stage: "prune", scores and rates, "finetune", the weights, or
            "joint", both. None for a method that removes weights in one shot; its prune epochs go to the finetune
            stage.
        finetunes: whether weights are finetuned under the masks that the prune stage leaves. A method that moves its
            masks until the end of training has the epochs of the finetune stage in the prune stage.
        only: settings of a run of which the method knows but one value, with that value.
        check: refuses what the method cannot prune before anything is trained, given the wrapped network and the dense
            model.
        trainer: the training that is made of the network, called like `AdversarialModel`.
    """

    mode: str = "score"
    strategy: str = "uniform"
    other_rates: bool = True
    rule: Strategy | None = None
    start: Callable[[keras.Model, int], None] | None = None
    only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    check: Callable[[keras.Model, keras.Model], None] | None = None
    trains: str | None = "prune"
    finetunes: bool = True
    trainer: Callable[..., AdversarialModel] = AdversarialModel

    @property
    def one_shot(self) -> bool:
        """Whether nothing is trained in the prune stage."""
        return self.trains is None


def keep_largest(kernel: PrunedKernel, values: np.ndarray, count: int | None = None) -> None:
    """Makes the mask of a kernel keep the entries of largest |value|, the first ones among equals.

    Args:
        kernel: a kernel whose rate is not learned.
        values: a finite number per weight, of the kernel's shape.
        count: how many entries to keep; None leaves the number as it is.

    Raises:
        HarpError: if there is another number of values, or one is not finite.
    """
    shape, values = tuple(kernel.scores.scores.shape), np.asarray(values)
    if values.shape != shape or not np.isfinite(values).all():
        found = f"values of the shape {values.shape}" if values.shape != shape else "some that are not finite"
        raise HarpError(
            f"keep_largest needs a finite number per weight of {kernel.path}, in the shape {shape}; received {found}."
        )
    kernel.scores.scores.assign(values)
    if count is not None:
        kernel.scores.set_count(count)


def keep_all(kernels: Sequence[PrunedKernel]) -> None:
    """Makes masks keep every weight, in a training that removes none yet.

    Args:
        kernels: kernels whose rates are not learned.
    """
    for kernel in kernels:
        kernel.scores.set_count(kernel.scores.size)


def require_steps(steps_per_epoch: int | None) -> int:
    """The number of steps of an epoch, for a training whose schedule hangs on it.

    Raises:
        HarpError: if `fit` was not given it.
    """
    if steps_per_epoch is None:
        raise HarpError(
            "The schedule of this method hangs on the number of steps: pass fit(..., epochs=..., steps_per_epoch=...)."
        )
    return steps_per_epoch
