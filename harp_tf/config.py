"""The settings of a run: every one with its default, unit and range, checked before anything starts."""

import dataclasses
import math
from typing import Any

from harp_tf.types import BUDGETS, PRUNE_MODES, HarpError, PruningSpec, require_choice

STAGES = ("pretrain", "prune", "finetune", "export", "evaluate")


def _setting(
    default: Any, text: str, low: float | None = None, high: float | None = None, choices=None
) -> Any:
    """A field of `RunConfig` with what the command line says about it; `low` and `high` are inclusive."""
    metadata = {"help": text, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


_TINY = 1e-12
"""Stands for "more than 0" in a range."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of `python -m harp_tf.train`; each field is a flag of the same name."""

    run_dir: str = _setting("runs/run", "Folder that gets everything the run writes.")
    stages: tuple[str, ...] = _setting(STAGES, "Stages to run, in this order.", choices=STAGES)
    init_from: str | None = _setting(
        None, "Run directory or .keras file whose model is the starting point of the first stage."
    )
    overwrite: bool = _setting(False, "Replace the results of an earlier run in run_dir.")
    seed: int = _setting(0, "Seed of initial weights, data order, augmentation and attacks.", 0, 2**31 - 1)

    dataset: str = _setting(
        "digits", "digits, idx:DIR, npz:FILE, dir:FOLDER, or a TensorFlow Datasets name such as cifar10."
    )
    data_dir: str | None = _setting(None, "Folder where TensorFlow Datasets keeps its data.")
    download: bool = _setting(False, "Let TensorFlow Datasets download the dataset.")
    validation_fraction: float = _setting(
        0.1, "Fraction of the training images held out for validation.", 0.001, 0.9
    )
    train_limit: int | None = _setting(None, "Use at most so many training images.", 1)
    test_limit: int | None = _setting(None, "Use at most so many test images.", 1)

    model: str = _setting("cnn_digits", "Name of a model, path of a .keras file, or package.module:function.")
    width: float | None = _setting(None, "Multiplies the channels of a named model.", _TINY)
    depth: int | None = _setting(None, "Multiplies the convolutions per stage of a named model.", 1)

    loss: str = _setting("pgd", "Training loss.", choices=("natural", "pgd", "trades", "mart", "free"))
    beta: float = _setting(6.0, "Weight of the KL term of trades and mart.", 0)
    replays: int = _setting(4, "How often the loss free uses each minibatch.", 1)
    norm: str = _setting("linf", "Norm of the threat model.", choices=("linf", "l2"))
    eps: float = _setting(8 / 255, "Radius of the attack, in units of [0, 1] pixels.", 0)
    attack_steps: int = _setting(10, "Gradient steps of the training attack.", 1)
    attack_step_size: float | None = _setting(
        None, "Step of the training attack in [0, 1] pixels; default eps / 4.", 0
    )

    target_sparsity: float = _setting(0.99, "Fraction of the prunable weights to remove, in (0, 1).")
    mode: str = _setting(
        "harp", "harp learns scores and rates; score or rate only one of them.", choices=PRUNE_MODES
    )
    strategy: str = _setting("uniform", "Initial rates: uniform, erk, lamp, or the path of a rates.json.")
    initial_rate: float | None = _setting(
        None, "Fraction kept at the start; default 0.1, for mode score the target.", _TINY, 1
    )
    budget: str = _setting("weights", "What the size penalty counts.", choices=BUDGETS)
    floor_factor: float = _setting(
        0.1, "No layer's rate falls below this times the target rate.", 1e-6, 0.999
    )
    gamma: float = _setting(0.01, "gamma_0, by which the factor of the size penalty rises per epoch.", _TINY)
    skip: tuple[str, ...] = _setting((), "Names of layers to leave unpruned.")

    batch_size: int = _setting(128, "Images per training step.", 1)
    optimizer: str = _setting("sgd", "Optimiser.", choices=("sgd", "adam"))
    momentum: float = _setting(0.9, "Momentum of sgd.", 0, 0.9999)
    weight_decay: float = _setting(5e-4, "L2 decay added to the gradients; never on scores and rates.", 0)
    schedule: str = _setting(
        "cosine", "Learning-rate schedule of each stage.", choices=("cosine", "step", "constant")
    )
    warmup_epochs: float = _setting(0.0, "Epochs of linear warm-up at the start of pretrain.", 0)
    pretrain_epochs: int = _setting(100, "Epochs of the dense model.", 1)
    prune_epochs: int = _setting(20, "Epochs of the prune stage.", 1)
    finetune_epochs: int = _setting(100, "Epochs under the learned masks.", 1)
    pretrain_learning_rate: float = _setting(0.1, "Initial learning rate of pretrain.", _TINY)
    prune_learning_rate: float = _setting(0.1, "Initial learning rate of the prune stage.", _TINY)
    finetune_learning_rate: float = _setting(0.01, "Initial learning rate of finetune.", _TINY)

    eval_steps: int = _setting(20, "Gradient steps of PGD in the final evaluation.", 1)
    eval_step_size: float | None = _setting(None, "Step of PGD in the final evaluation; default eps / 10.", 0)
    robust_limit: int | None = _setting(
        None, "Attack at most so many test images in the final evaluation.", 1
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _check(field.name, value, field.metadata)
        if not self.stages or list(self.stages) != [stage for stage in STAGES if stage in self.stages]:
            raise HarpError(
                f"stages must be some of {', '.join(STAGES)} in this order, received {self.stages}."
            )
        if self.warmup_epochs > self.pretrain_epochs:
            raise HarpError(
                f"warmup_epochs ({self.warmup_epochs}) must not exceed pretrain_epochs ({self.pretrain_epochs})."
            )
        self.pruning_spec()

    def pruning_spec(self) -> PruningSpec:
        """The part of the settings that the pruned layers carry.

        Raises:
            HarpError: if one of them is out of its range.
        """
        return PruningSpec(self.target_sparsity, self.mode, self.budget, self.floor_factor)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON-serialisable values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def _check(name: str, value: Any, metadata: Any) -> None:
    if metadata["choices"]:
        for item in value if isinstance(value, tuple) else (value,):
            require_choice(name, item, metadata["choices"])
    low, high = metadata["low"], metadata["high"]
    if low is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise HarpError(f"{name} must be a finite number, received {value!r}.")
    if value < low or (high is not None and value > high):
        least = "more than 0" if low == _TINY else f"at least {low:g}"
        most = "" if high is None else f" and at most {high:g}"
        raise HarpError(f"{name} must be {least}{most}, received {value!r}.")
