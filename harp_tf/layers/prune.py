"""The verb `prune`: from a plain Keras model to a pruned one."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import keras

from harp_tf import strategies
from harp_tf.layers.bounds import bounds_of, rate_bounds_from, require_matches
from harp_tf.layers.budget import budget_of, project_to_budget
from harp_tf.layers.composite import own_variables
from harp_tf.layers.model import (
    magnitudes,
    pruned_kernels,
    pruning_spec,
    rate_table,
)
from harp_tf.layers.policy import Skip, leave_alone
from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import copy_variables, rebuild, require_built, walk
from harp_tf.layers.registry import kernels_of, pruned_class
from harp_tf.layers.set_stage import set_stage
from harp_tf.layers.spaces import find_spaces
from harp_tf.types import HarpError, PruningSpec, is_number

INITIAL_RATE = 0.1
"""The rate at which HARP starts, before L_hw pulls the network to its target."""


def prune(
    model: keras.Model,
    target_sparsity: float,
    *,
    mode: str = "harp",
    strategy: str | strategies.Strategy = "uniform",
    initial_rate: float | None = None,
    skip: Skip = (),
    strict: bool = False,
    budget: str = "weights",
    floor_factor: float = 0.1,
    rate_bounds: Mapping[str, Sequence[float | None]] = MappingProxyType({}),
    granularity: str = "weight",
    channel_multiple: int = 8,
    rate_gradient: str = "sum",
    verbose: bool = True,
) -> keras.Model:
    """Wraps every prunable layer of a Keras model with trainable scores and rates.

    The given model is not changed. The new one has the same layer names, the same graph and the same weights, and
    is in its prune stage: scores, rates and normalisation layers train, kernels and biases are frozen.

    Args:
        model: a built Keras 3 model: Sequential, Functional, nested to any depth, or a subclass whose configuration
            (`get_config`) makes the same layers again.
        target_sparsity: fraction of the prunable weights to remove, in (0, 1).
        mode: "harp" learns scores and rates, "score" the scores under fixed rates, "rate" the rates only.
        strategy: initial rates: "uniform", "erk", "igq", "lamp", the path of a JSON file, or a function.
        initial_rate: overall fraction kept at the start. Default: 0.1, or the target where that is more, for
            learned rates; the target for mode "score", whose rates stay as they are.
        skip: what to leave unpruned: a name or path of a layer or nested model, a compiled pattern searched in paths,
            a layer class, a layer itself (`model.layers[-1]`), a function (path, layer) -> bool, or a list of them.
            Frozen layers (`trainable` is False) are left alone too.
        strict: raise if a layer with a kernel of an unknown kind is found, instead of leaving it unpruned.
        budget: what the target is about, in the penalty L_hw and in the promise on the pruned model: "weights", or
            "flops", multiply-adds at the model's input size.
        floor_factor: alpha; no layer's rate falls below alpha * target rate.
        rate_bounds: {layer: (smallest, largest) rate} for layers that need others, None for a bound that is not
            wanted: {"conv1": (0.2, None), "block3/.*": (None, 0.1), "logits": (1, 1)}. The key is a regular
            expression that matches the name or path of a layer or nested model, or the path of a kernel, in full; of
            several the last counts. Initial rates outside of the bounds are moved to the nearest bound.
        granularity: what a score stands for: "weight", or "channel", an input channel of a layer. Layers that read the
            same channels share scores and rate; channels that the model takes or returns are never removed. Needs a
            Sequential or Functional model, and `AdversarialModel` to train it.
        channel_multiple: with channels, the numbers that are kept become multiples of it at the end, where a layer
            reads at least twice as many and the budget allows it.
        rate_gradient: how rates learn from the loss: by the paper's "sum" over all mask entries, or by the "marginal"
            value of one more (docs/recipe.md says where that helped).
        verbose: print which layers were wrapped and which were not, and why.

    Returns:
        A new Keras model with pruned layers, not compiled.

    Raises:
        HarpError: if the arguments are out of range, the model cannot be rebuilt or nothing in it can be pruned.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023.
    """
    spec = PruningSpec(target_sparsity, mode, budget, floor_factor, granularity, channel_multiple, rate_gradient)
    limits = rate_bounds_from(rate_bounds)
    initial_rates = strategies.get(strategy)
    if initial_rate is None:
        initial_rate = spec.target_rate if mode == "score" else max(INITIAL_RATE, spec.target_rate)
    if not is_number(initial_rate) or not 0.0 < initial_rate <= 1.0:
        raise HarpError(
            f"initial_rate, the fraction of weights kept at the start, must be in (0, 1], received {initial_rate!r}."
        )
    require_built(model)
    leave = leave_alone(skip, model)
    skipped: dict[str, str] = {}
    unknown: list[str] = []
    spaces = None
    if granularity == "channel":
        wrapped = [p for p, la in walk(model) if kernels_of(type(la)) and la.trainable and not leave(p, la)]
        spaces = find_spaces(model, wrapped)

    def replacement(path: str, layer: keras.layers.Layer) -> tuple[type, dict] | None:
        if isinstance(layer, PrunedLayer):
            raise HarpError(f"Layer {path!r} is pruned already. Pass the dense model, or harp_tf.strip(model) first.")
        known = bool(kernels_of(type(layer)))
        if not known and not any(len(weight.shape) > 1 for weight in own_variables(layer)):
            return None
        name = path or model.name
        if leave(path, layer):
            skipped[name] = "skipped on request"
        elif not known:
            skipped[name] = f"no prunable kernel is known for {type(layer).__name__}"
            unknown.append(f"{name} ({type(layer).__name__})")
        elif not layer.trainable:
            skipped[name] = "frozen: trainable is False"
        elif spaces is not None and path not in spaces.reads:
            skipped[name] = f"how {type(layer).__name__} reads its input channels here is not known"
        if name in skipped:
            return None
        config = {**layer.get_config(), "pruning": spec.as_dict()}
        decided_on = {k.name: f"{path}/{k.name}" for k in kernels_of(type(layer))}
        if spaces is not None:
            config["reads"] = [part.as_list() for part in spaces.reads[path]]
            decided_on = {space: space for part in spaces.reads[path] for space, _ in part.spaces if space is not None}
            if path in spaces.fixed:
                skipped[name] = f"its input channels are fixed: {spaces.fixed[path]}"
        own = {key: bounds_of(where, limits, spec.minimum_rate) for key, where in decided_on.items()}
        if any(own.values()):
            config["rate_bounds"] = {key: list(pair) for key, pair in own.items() if pair}
        return pruned_class(type(layer)), config

    pruned = rebuild(model, replacement)
    if strict and unknown:
        raise HarpError(
            f"Layers with kernels of an unknown kind: {', '.join(unknown)}. Register them with "
            "harp_tf.register_kernels(LayerClass, 'kernel'), name them in skip=, or leave out strict=True."
        )
    kernels = pruned_kernels(pruned)
    if not kernels:
        raise HarpError(
            f"Model {model.name!r} has no layer that can be pruned, a Dense or convolution layer for one: "
            f"{'; '.join(f'{path}: {reason}' for path, reason in skipped.items()) or 'it has no kernels'}. Register "
            "other layers with harp_tf.register_kernels(LayerClass, 'kernel')."
        )
    require_matches(limits, [kernel.path for kernel in kernels])
    layers = dict(walk(model))
    for path, layer in walk(pruned):
        if isinstance(layer, PrunedLayer):
            copy_variables(layers[path].variables, layer.base_variables())
    # What would fail only during or after the training fails here.
    budget_of(pruned)
    moved = _initialise(pruned, initial_rates, initial_rate)
    set_stage(pruned, "prune")
    if verbose:
        print("\n".join([describe(pruned, skipped), *moved]))
    return pruned


def _initialise(model: keras.Model, strategy: strategies.Strategy, initial_rate: float) -> list[str]:
    """Sets scores and rates, and says for which kernels the strategy's rate was out of bounds."""
    kernels, fixed = pruned_kernels(model), pruning_spec(model).mode == "score"
    values = magnitudes(model)
    rates = strategy([strategies.KernelInfo(path, array) for path, array in values.items()], initial_rate)
    for path in values:
        rate = rates.get(path)
        if not is_number(rate) or not 0.0 < rate <= 1.0:
            raise HarpError(f"The strategy must give {path!r} a rate in (0, 1], it gave {rate!r}.")
    moved = []
    for kernel in kernels:
        path, scores = kernel.path, kernel.scores
        rate = min(max(rates[path], scores.minimum_rate), scores.maximum_rate)
        if not math.isclose(rate, rates[path], rel_tol=1e-6):
            moved.append(f"initial rate of {path}: {rate:.5f}, the nearest within its bounds, not {rates[path]:.5f}")
        scores.initialise(values[path], rate)
        if fixed:
            # A rate is float32, and its rounding can change the count that was asked for.
            scores.set_count(min(max(scores.count(rate), scores.least()), scores.most()))
    if fixed:
        project_to_budget(model)
    return moved


def describe(model: keras.Model, skipped: dict[str, str] | None = None) -> str:
    """A table of the pruned kernels or channel spaces of a model: weights, kept weights, rate, and what was left alone.

    Args:
        model: a model made by `prune`.
        skipped: path -> reason of layers that were left unpruned.

    Returns:
        Several lines of text.
    """
    spec = pruning_spec(model)
    table = rate_table(model)
    bounds = {
        layer.mask_source.path(path, name): f"  between {low:g} and {high:g}"
        for path, layer in walk(model)
        if isinstance(layer, PrunedLayer)
        for name, (low, high) in layer.rate_bounds.items()
    }
    width = max(len(path) for path in table)
    total = sum(row["weights"] for row in table.values())
    kept = sum(row["kept"] for row in table.values())
    lines = [f"{'kernel':{width}}  {'weights':>12}  {'kept':>12}  {'rate':>8}"]
    for path, row in table.items():
        note = "  only a handful of weights left" if row["kept"] < min(10, row["weights"]) else ""
        if "channels" in row:
            note = f"  {row['kept_channels']} of {row['channels']} channels"
            note += ", the network hangs on a single one" if row["kept_channels"] == 1 else ""
        note += bounds.get(path, "")
        lines.append(f"{path:{width}}  {row['weights']:12,}  {row['kept']:12,}  {row['rate']:8.5f}{note}")
    lines.append(f"{'total':{width}}  {total:12,}  {kept:12,}  {kept / total:8.5f}")
    lines.append(f"target sparsity {spec.target_sparsity:g}: {budget_of(model)}")
    lines += [f"not pruned: {path} ({reason})" for path, reason in (skipped or {}).items()]
    return "\n".join(lines)
