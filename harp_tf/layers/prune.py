"""The verbs `prune` and `strip`: from a plain Keras model to a pruned one and back."""

from collections.abc import Callable, Collection

import keras

from harp_tf import compression, strategies
from harp_tf.layers.model import (
    masked_kernels,
    project_to_budget,
    pruned_kernels,
    pruning_spec,
    rate_table,
    set_stage,
)
from harp_tf.layers.pruned import PrunedLayer, pruned_class
from harp_tf.layers.rebuild import copy_variables, rebuild, walk
from harp_tf.layers.registry import kernels_of
from harp_tf.types import HarpError, PruningSpec

INITIAL_RATE = 0.1
"""The rate at which HARP starts, before L_hw pulls the network to its target."""

Skip = Collection[str] | Callable[[str, keras.layers.Layer], bool]


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
    granularity: str = "weight",
    verbose: bool = True,
) -> keras.Model:
    """Wraps every prunable layer of a Keras model with trainable scores and rates.

    The given model is not changed. The new one has the same layer names, the same graph and the same weights, and
    is in its prune stage: scores, rates and normalisation layers train, kernels and biases are frozen.

    Args:
        model: a built Sequential or Functional Keras 3 model, nested ones included.
        target_sparsity: fraction of the prunable weights to remove, in (0, 1).
        mode: "harp" learns scores and rates, "score" the scores under fixed rates, "rate" the rates only.
        strategy: initial rates: "uniform", "erk", "lamp", the path of a JSON file, or a function.
        initial_rate: overall fraction kept at the start. Default: 0.1, or the target where that is more, for
            learned rates; the target for mode "score", whose rates stay as they are.
        skip: names or paths of layers to leave unpruned, or a function (path, layer) -> bool.
        strict: raise if a layer with a kernel of an unknown kind is found, instead of leaving it unpruned.
        budget: what the penalty L_hw counts, "weights" or "flops".
        floor_factor: alpha; no layer's rate falls below alpha * target rate.
        granularity: what a score stands for, "weight".
        verbose: print which layers were wrapped and which were not, and why.

    Returns:
        A new Keras model with pruned layers, not compiled.

    Raises:
        HarpError: if the arguments are out of range, the model cannot be rebuilt or nothing in it can be pruned.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023.
    """
    spec = PruningSpec(target_sparsity, mode, budget, floor_factor, granularity)
    initial_rates = strategies.get(strategy)
    skipped: dict[str, str] = {}

    def replacement(path: str, layer: keras.layers.Layer) -> tuple[type, dict] | None:
        if isinstance(layer, PrunedLayer):
            raise HarpError(
                f"Layer {path!r} is pruned already. Pass the dense model, or harp_tf.strip(model) first."
            )
        if not kernels_of(type(layer)):
            if any(len(weight.shape) > 1 for weight in layer.weights):
                skipped[path] = f"no prunable kernel is known for {type(layer).__name__}"
            return None
        if skip(path, layer) if callable(skip) else (path in skip or layer.name in skip):
            skipped[path] = "skipped on request"
            return None
        return pruned_class(type(layer)), {**layer.get_config(), "pruning": spec.as_dict()}

    pruned = rebuild(model, replacement)
    unknown = [f"{path} ({reason})" for path, reason in skipped.items() if reason != "skipped on request"]
    if strict and unknown:
        raise HarpError(
            f"Layers with kernels of an unknown kind: {', '.join(unknown)}. Register them with "
            "harp_tf.register_kernels(LayerClass, 'kernel'), name them in skip=, or leave out strict=True."
        )
    kernels = pruned_kernels(pruned)
    if not kernels:
        raise HarpError(
            f"Model {model.name!r} has no prunable layer (Dense or convolution): "
            f"{'; '.join(f'{path}: {reason}' for path, reason in skipped.items()) or 'it has no kernels'}."
        )
    for (_, old), (_, new) in zip(walk(model), walk(pruned), strict=True):
        if isinstance(new, PrunedLayer):
            learned = {id(v) for scores in new.kernel_scores for v in scores.variables}
            copy_variables(old.variables, [v for v in new.variables if id(v) not in learned])
    _initialise(pruned, initial_rates, initial_rate)
    set_stage(pruned, "prune")
    if verbose:
        print(describe(pruned, skipped))
    return pruned


def _initialise(model: keras.Model, strategy: strategies.Strategy, initial_rate: float | None) -> None:
    spec = pruning_spec(model)
    if initial_rate is None:
        initial_rate = spec.target_rate if spec.mode == "score" else max(INITIAL_RATE, spec.target_rate)
    if not 0.0 < initial_rate <= 1.0:
        raise HarpError(f"initial_rate must be in (0, 1], received {initial_rate!r}.")
    kernels = pruned_kernels(model)
    values = {kernel.path: keras.ops.convert_to_numpy(kernel.variable) for kernel in kernels}
    rates = strategy([strategies.KernelInfo(path, array) for path, array in values.items()], initial_rate)
    for kernel in kernels:
        kernel.scores.initialise(values[kernel.path], rates[kernel.path])
    if spec.mode == "score":
        for kernel in kernels:
            kernel.scores.set_count(int(compression.keep_count(rates[kernel.path], kernel.scores.size)))
        project_to_budget(model)


def describe(model: keras.Model, skipped: dict[str, str] | None = None) -> str:
    """A table of the pruned kernels of a model: weights, kept weights and rate, and what was left alone.

    Args:
        model: a model made by `prune`.
        skipped: path -> reason of layers that were left unpruned.

    Returns:
        Several lines of text.
    """
    spec = pruning_spec(model)
    table = rate_table(model)
    width = max(len(path) for path in table)
    total = sum(row["weights"] for row in table.values())
    kept = sum(row["kept"] for row in table.values())
    budget = compression.weight_budget(total, spec.target_rate)
    lines = [f"{'kernel':{width}}  {'weights':>12}  {'kept':>12}  {'rate':>8}"]
    for path, row in table.items():
        note = "  only a handful of weights left" if row["kept"] < min(10, row["weights"]) else ""
        lines.append(f"{path:{width}}  {row['weights']:12,}  {row['kept']:12,}  {row['rate']:8.5f}{note}")
    lines.append(f"{'total':{width}}  {total:12,}  {kept:12,}  {kept / total:8.5f}")
    lines.append(f"target sparsity {spec.target_sparsity:g}: at most {budget:,} weights may remain")
    lines += [f"not pruned: {path} ({reason})" for path, reason in (skipped or {}).items()]
    return "\n".join(lines)


def strip(model: keras.Model) -> keras.Model:
    """Turns a pruned model into a plain Keras model whose removed weights are exactly 0.

    Args:
        model: a model made by `prune`, which is left as it is, but for its rates: if they exceed the budget they
            are projected onto it first.

    Returns:
        A plain Keras model of the same names and logits, which loads where harp_tf is not installed.

    Raises:
        HarpError: if the model has no pruned layers, or its budget cannot be met.
    """
    pruning_spec(model)
    if project_to_budget(model):
        print("The rates exceeded the target sparsity and were projected onto it.")

    def replacement(path: str, layer: keras.layers.Layer) -> tuple[type, dict] | None:
        if not isinstance(layer, PrunedLayer):
            return None
        config = layer.get_config()
        del config["pruning"]
        return layer.base_class, config

    plain = rebuild(model, replacement)
    masked = masked_kernels(model)
    for (_, old), (_, new) in zip(walk(model), walk(plain), strict=True):
        if isinstance(old, PrunedLayer):
            learned = {id(v) for scores in old.kernel_scores for v in scores.variables}
            kernels = [masked.get(id(v), v) for v in old.variables if id(v) not in learned]
            copy_variables(kernels, new.variables)
    plain.trainable = True
    return plain


__all__ = ["Skip", "describe", "prune", "strip"]
