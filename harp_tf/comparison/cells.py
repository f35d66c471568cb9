"""The cells of a comparison: which runs it consists of, in which order, and the command that makes each."""

import csv
import dataclasses
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harp_tf import strategies
from harp_tf.baselines import METHODS
from harp_tf.config import RunConfig
from harp_tf.recipes import BEST
from harp_tf.report.comparison.read import CONTROL, DENSE, RECIPE
from harp_tf.types import HarpError

LEARNED = "harp"
"""As rates after a method: those that HARP learned in the same comparison."""

RATES = (*strategies.NAMED, LEARNED)
"""What may follow a method after "@"."""

CHOICES = (LEARNED, RECIPE, *(method for method in METHODS if method != LEARNED), CONTROL)
"""What `--methods` may name without a module that registers more."""


@dataclasses.dataclass(frozen=True)
class Axes:
    """What a comparison varies; every combination is a cell.

    Attributes:
        methods: names of `CHOICES` or `METHODS`, or METHOD@RATES for a method at rates of `RATES` instead of its own.
        sparsities: fractions of the weights to remove.
        losses: training losses.
        seeds: of the prune and finetune stages; all start from the same dense model.
    """

    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    losses: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self):
        for name, values in dataclasses.asdict(self).items():
            if not values or len(set(values)) < len(values):
                found = "none" if not values else ",".join(map(str, values))
                raise HarpError(f"--{name} must name at least one, and each once, received {found}.")
        wrong = [method for method in self.methods if not _is_method(method)]
        if wrong:
            known = dict.fromkeys((*CHOICES, *METHODS))
            raise HarpError(
                f"--methods must be some of {', '.join(known)}, or METHOD@RATES with a pruning method and one of "
                f"{', '.join(RATES)}, received {', '.join(wrong)}."
            )
        learned = [method for method in self.methods if _takes_learned(method)]
        if learned and LEARNED not in self.methods:
            raise HarpError(f"{', '.join(learned)} takes the rates that {LEARNED} learns: add {LEARNED} to --methods.")

    @classmethod
    def parse(
        cls, methods: Sequence[str], sparsities: Sequence[str], losses: Sequence[str], seeds: Sequence[str]
    ) -> "Axes":
        """Reads the texts of the command line.

        Raises:
            HarpError: if one of them is no number or no such name.
        """
        return cls(
            tuple(methods), _numbers("sparsities", sparsities, float), tuple(losses), _numbers("seeds", seeds, int)
        )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        method: what made its model: `DENSE`, `CONTROL`, `RECIPE`, a name of `METHODS` or METHOD@RATES.
        sparsity: fraction of the weights that it removes; None for a dense model.
        loss: its training loss.
        seed: its seed.
        config: its settings.
        model: a trained model of the user's that is the dense model; None where that is trained.
    """

    method: str
    sparsity: float | None
    loss: str
    seed: int
    config: RunConfig
    model: Path | None = None

    @property
    def directory(self) -> Path:
        """Its run directory."""
        return Path(self.config.run_dir)

    @property
    def name(self) -> str:
        """Name of its run directory."""
        return self.directory.name

    @property
    def after(self) -> set[str]:
        """Names of the cells whose model or rates it starts from."""
        model, rates = Path(self.config.init_from or ""), Path(self.config.strategy or "").parent
        return {model.name, rates.name} - {""}

    @property
    def key(self) -> str:
        """The model that its figures are about, as results.json calls it."""
        return "dense" if self.sparsity is None else "pruned"

    def command(self) -> str:
        """What makes the cell, or goes on with it, as a line for a shell."""
        folder = shlex.quote(str(self.directory))
        copy = f"mkdir -p {folder} && cp {shlex.quote(str(self.model))} {folder}/dense.keras && "
        return (copy if self.model else "") + shlex.join(["python", *train_arguments(self.config)])


def plan(config: RunConfig, axes: Axes) -> list[Cell]:
    """Lists the cells of a comparison, each after those that it starts from.

    Args:
        config: the settings that all cells share; its seed is that of the dense models, and keys the cut into training
            and validation images for everyone, so that no image that chose an epoch was trained on before.
        axes: what varies.

    Returns:
        For every loss the dense model, then seed by seed the control and all methods at all sparsities.

    Raises:
        HarpError: if a cell's settings do not go together.
    """
    folder = Path(config.run_dir) / "cells"
    cells = []
    for loss in axes.losses:
        shared = dataclasses.replace(config, data_seed=config.cut_seed, method="harp", strategy=None, loss=loss)
        dense = _dense(shared, folder)
        cells.append(dense)
        for seed in axes.seeds:
            follower = dataclasses.replace(shared, init_from=dense.config.run_dir, seed=seed)
            if CONTROL in axes.methods:
                cells.append(_control(follower, folder))
            named = [method for method in axes.methods if method != CONTROL]
            named.sort(key=_takes_learned)
            pruned = [(s, method) for s in axes.sparsities for method in named]
            cells += [_pruned(follower, folder, method, sparsity) for sparsity, method in pruned]
    return cells


def _dense(config: RunConfig, folder: Path) -> Cell:
    home = str(folder / f"{DENSE}_{config.loss}")
    trained = config.init_from or (config.model if config.model.endswith(".keras") else None)
    stages = ("export", "evaluate") if trained else ("pretrain", "export", "evaluate")
    settings = dataclasses.replace(config, run_dir=home, stages=stages, init_from=None)
    return Cell(DENSE, None, config.loss, config.seed, settings, _dense_file(trained) if trained else None)


def _control(config: RunConfig, folder: Path) -> Cell:
    settings = dataclasses.replace(
        config,
        run_dir=str(folder / f"{CONTROL}_{config.loss}_seed{config.seed}"),
        stages=("pretrain", "export", "evaluate"),
        pretrain_epochs=config.prune_epochs + config.finetune_epochs,
        warmup_epochs=0.0,
    )
    return Cell(CONTROL, None, config.loss, config.seed, settings)


def _pruned(config: RunConfig, folder: Path, method: str, sparsity: float) -> Cell:
    name = f"_{100 * sparsity:.10g}_{config.loss}_seed{config.seed}"
    kind, _, rates = method.partition("@")
    if rates == LEARNED:
        rates = str(folder / (LEARNED + name) / "rates.json")
    settings = dataclasses.replace(
        config,
        run_dir=str(folder / (method + name)),
        stages=("prune", "finetune", "export", "evaluate"),
        target_sparsity=sparsity,
        measure_dense=False,  # the dense model has a cell of its own
        **(BEST if method == RECIPE else {"method": kind, "strategy": rates or None}),
    )
    return Cell(method, sparsity, config.loss, config.seed, settings)


def _is_method(name: str) -> bool:
    method, at, rates = name.partition("@")
    return method in METHODS and rates in RATES if at else method in METHODS or method in CHOICES


def _takes_learned(name: str) -> bool:
    """Whether the rates of a method are learned by another cell."""
    return name.endswith(f"@{LEARNED}")


def train_arguments(config: RunConfig) -> list[str]:
    """The arguments of `python` that make a run of these settings, or go on with it."""
    return ["-m", "harp_tf.train", *flags_of(config)]


def evaluate_arguments(cell: Cell) -> list[str]:
    """The arguments of `python` that measure a trained cell with the attacks of its settings."""
    c = cell.config
    wanted: dict[str, Any] = {
        "attacks": ",".join(c.evaluated_attacks),
        "eps_list": ",".join(c.eps_list or (str(c.eps),)),
        "robust_limit": c.robust_limit or 2**31 - 1,
    }
    if c.own_modules:
        wanted["import_modules"] = ",".join(c.own_modules)
    flags = [f"--{name}={value}" for name, value in wanted.items()]
    # Where the data lie, and what their classes are called, may be another today than when the cell was trained.
    here = RunConfig(data_dir=c.data_dir, download=c.download, class_names=c.class_names)
    return ["-m", "harp_tf.evaluate", f"--target={cell.directory}", *flags, *flags_of(here)]


def flags_of(config: RunConfig) -> list[str]:
    """The flags that make these settings: those that are not at their defaults."""
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            found.append(f"--{field.name}" if value else f"--no{field.name}")
        elif isinstance(value, tuple):
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(value)
            found.append(f"--{field.name}={line.getvalue()}")
        else:
            found.append(f"--{field.name}={value}")
    return found


def _dense_file(trained: str) -> Path:
    path = Path(trained)
    path = path / "dense.keras" if path.is_dir() else path
    if not path.is_file():
        raise HarpError(f"A comparison starts from a trained dense model, and {path} does not exist.")
    return path


def _numbers(name: str, texts: Sequence[str], kind: type) -> tuple:
    try:
        return tuple(kind(text) for text in texts)
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise HarpError(f"--{name} must be {what}, received {','.join(texts)}.") from error
