"""The prune stage as the settings say it: what is wrapped, and the way from its first part to its second.

With the granularity "channel,weight" the stage has two parts. The first learns which channels to remove, under a budget
of multiply-adds. What is left becomes a smaller dense model. The second removes single weights of that, until no more
remain than `target_sparsity` permits of the model that the stage began with.
"""

from pathlib import Path
from typing import Any

import keras

from harp_tf import compaction, compression, layers, strategies
from harp_tf.config import RunConfig
from harp_tf.reading import read_json
from harp_tf.types import HarpError


def strategy_of(config: RunConfig) -> strategies.Strategy:
    """The initial rates: those that the settings name, or the method's own.

    Raises:
        HarpError: if the strategy is unknown or its file cannot be used.
    """
    rule = config.pruning_method.rule
    return rule if rule is not None and config.strategy is None else strategies.get(config.initial_strategy)


def check(model: keras.Model, config: RunConfig, strategy: strategies.Strategy) -> None:
    """Goes through the stage without training, so that what would fail after hours fails now.

    Args:
        model: the dense model that the stage begins with; it is not changed.
        config: the settings.
        strategy: initial rates.

    Raises:
        HarpError: if the model cannot be wrapped, or a budget cannot be met.
    """
    weights = layers.prunable_weights(model, config.skip)
    if config.channels_first:
        model = without_channels(wrap_channels(model, config, verbose=False))
    pruned = wrap(model, config, strategy, weights, verbose=False)
    if config.pruning_method.check is not None:
        config.pruning_method.check(pruned, model)


def wrap_channels(model: keras.Model, config: RunConfig, verbose: bool = True) -> keras.Model:
    """Wraps a dense model for the first of two parts, whose rates start uniform."""
    return layers.prune(
        model,
        config.channel_sparsity,
        mode=config.pruning_method.mode,
        skip=config.skip,
        budget="flops",
        floor_factor=config.floor_factor,
        granularity="channel",
        channel_multiple=config.channel_multiple,
        rate_gradient=config.rate_gradient,
        verbose=verbose,
    )


def without_channels(model: keras.Model) -> keras.Model:
    """The dense model that the first part leaves: the same logits without the removed channels."""
    layers.project_to_budget(model)  # done by the training, and without a word where there was none
    return compaction.compact(layers.strip(model), fold_batch_norm=False, verbose=False)


def wrap(
    model: keras.Model, config: RunConfig, strategy: strategies.Strategy, weights: int, verbose: bool = True
) -> keras.Model:
    """Wraps a dense model as the settings say, ready for its method; if channels go first, what they have left of it.

    Args:
        model: a dense model; it is not changed.
        config: the settings.
        strategy: initial rates.
        weights: number of prunable weights of the model that the stage began with; with channels first,
            `target_sparsity` is a fraction of them.
        verbose: print which layers were wrapped.

    Raises:
        HarpError: if the model cannot be wrapped, or has no more weights than may remain.
    """
    spec = config.pruning_spec()
    sparsity = spec.target_sparsity
    if config.channels_first:
        left = layers.prunable_weights(model, config.skip)
        permitted = compression.cost_budget(weights, spec.target_rate)
        if left <= permitted:
            raise HarpError(
                f"Removing channels leaves {left:,} of {weights:,} weights, and target_sparsity = {sparsity:g} permits "
                f"{permitted:,}: nothing would be left to remove. Raise target_sparsity, lower channel_sparsity, or "
                "remove channels only, with granularity channel."
            )
        sparsity = 1.0 - permitted / left
    pruned = layers.prune(
        model,
        sparsity,
        mode=spec.mode,
        strategy=strategy,
        initial_rate=config.initial_rate,
        skip=config.skip,
        budget=spec.budget,
        floor_factor=spec.floor_factor,
        rate_bounds=config.bounds_by_layer(),
        granularity=spec.granularity,
        channel_multiple=spec.channel_multiple,
        rate_gradient=spec.rate_gradient,
        verbose=verbose,
    )
    method = config.pruning_method
    if method.start is not None:
        method.start(pruned, config.seed)
    if method.trains is not None:
        layers.set_stage(pruned, method.trains)
    return pruned


def rates(model: keras.Model, method: str, strategy: str, projected: bool) -> dict[str, Any]:
    """The content of rates.json.

    Args:
        model: a pruned model.
        method: name of the method that made its masks.
        strategy: what its rates started from.
        projected: whether its rates had exceeded the budget.
    """
    table, spec = layers.rate_table(model), layers.pruning_spec(model)
    budget = layers.budget_of(model)
    return {
        "target_sparsity": spec.target_sparsity,
        "granularity": spec.granularity,
        "method": method,
        "mode": spec.mode,
        "strategy": strategy,
        "weights": sum(row["weights"] for row in table.values()),
        "kept": sum(row["kept"] for row in table.values()),
        # In the unit that it counts, "weights" or "flops": what may remain, what does, and what there was.
        "budget_counts": budget.counts,
        "budget": budget.permitted,
        "cost_kept": budget.kept,
        "cost": budget.total,
        "projected": projected,
        "layers": table,
    }


def origin(scored: Path | None) -> dict[str, Any]:
    """How a pruned model was made, as the rates.json beside it says; {} if there is none.

    Args:
        scored: the file of the model.
    """
    try:
        made = read_json(scored.with_name("rates.json")) if scored else {}
    except (OSError, ValueError):
        return {}
    known = made if isinstance(made, dict) else {}
    return {key: known[key] for key in ("method", "strategy", "projected") if key in known}
