"""The verbs `prune` and `strip`: from a plain Keras model to a pruned one and back."""

from collections.abc import Callable, Collection

import keras

from harp_tf import compression, strategies
from harp_tf.layers.model import (
    kernel_costs,
    project_to_budget,
    pruned_kernels,
    pruning_spec,
    rate_table,
    set_stage,
    weights_permitted,
)
from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import copy_variables, rebuild, require_graph, walk
from harp_tf.layers.registry import kernels_of, pruned_class
from harp_tf.types import HarpError, PruningSpec, is_number

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
        skip: names or paths of layers or nested models to leave unpruned, or a function (path, layer) -> bool.
            Frozen layers (`trainable` is False) are left alone too.
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
    if initial_rate is None:
        initial_rate = spec.target_rate if mode == "score" else max(INITIAL_RATE, spec.target_rate)
    if not is_number(initial_rate) or not 0.0 < initial_rate <= 1.0:
        raise HarpError(
            f"initial_rate, the fraction of weights kept at the start, must be in (0, 1], received {initial_rate!r}."
        )
    require_graph(model)
    leave = skip if callable(skip) else _named(skip, model)
    skipped: dict[str, str] = {}
    unknown: list[str] = []

    def replacement(path: str, layer: keras.layers.Layer) -> tuple[type, dict] | None:
        if isinstance(layer, PrunedLayer):
            raise HarpError(f"Layer {path!r} is pruned already. Pass the dense model, or harp_tf.strip(model) first.")
        known = bool(kernels_of(type(layer)))
        if not known and not any(len(weight.shape) > 1 for weight in layer.weights):
            return None
        if leave(path, layer):
            skipped[path] = "skipped on request"
        elif not known:
            skipped[path] = f"no prunable kernel is known for {type(layer).__name__}"
            unknown.append(f"{path} ({type(layer).__name__})")
        elif not layer.trainable:
            skipped[path] = "frozen: trainable is False"
        if path in skipped:
            return None
        return pruned_class(type(layer)), {**layer.get_config(), "pruning": spec.as_dict()}

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
    layers = dict(walk(model))
    for path, layer in walk(pruned):
        if isinstance(layer, PrunedLayer):
            copy_variables(layers[path].variables, layer.base_variables())
    # What would fail only during or after the training fails here.
    weights_permitted(pruned)
    kernel_costs(pruned)
    _initialise(pruned, initial_rates, initial_rate)
    set_stage(pruned, "prune")
    if verbose:
        print(describe(pruned, skipped))
    return pruned


def _named(skip: Collection[str], model: keras.Model) -> Callable[[str, keras.layers.Layer], bool]:
    """Makes a function of the names and paths to skip, after checking that each of them exists."""
    wanted = {skip} if isinstance(skip, str) else set(skip)

    def names(path: str) -> set[str]:
        parts = path.split("/")
        return {parts[-1]} | {"/".join(parts[: i + 1]) for i in range(len(parts))}

    unmatched = wanted.difference(*(names(path) for path, _ in walk(model))) if wanted else None
    if unmatched:
        raise HarpError(
            f"skip names layers that model {model.name!r} does not have: {', '.join(map(repr, sorted(unmatched)))}. "
            f"It has {', '.join(path for path, layer in walk(model) if layer.weights)}."
        )
    return lambda path, layer: not wanted.isdisjoint(names(path))


def _initialise(model: keras.Model, strategy: strategies.Strategy, initial_rate: float) -> None:
    kernels = pruned_kernels(model)
    values = {kernel.path: keras.ops.convert_to_numpy(kernel.variable) for kernel in kernels}
    rates = strategy([strategies.KernelInfo(path, array) for path, array in values.items()], initial_rate)
    for path in values:
        rate = rates.get(path)
        if not is_number(rate) or not 0.0 < rate <= 1.0:
            raise HarpError(f"The strategy must give {path!r} a rate in (0, 1], it gave {rate!r}.")
    for kernel in kernels:
        kernel.scores.initialise(values[kernel.path], rates[kernel.path])
    if pruning_spec(model).mode == "score":
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
    lines = [f"{'kernel':{width}}  {'weights':>12}  {'kept':>12}  {'rate':>8}"]
    for path, row in table.items():
        note = "  only a handful of weights left" if row["kept"] < min(10, row["weights"]) else ""
        lines.append(f"{path:{width}}  {row['weights']:12,}  {row['kept']:12,}  {row['rate']:8.5f}{note}")
    lines.append(f"{'total':{width}}  {total:12,}  {kept:12,}  {kept / total:8.5f}")
    lines.append(f"target sparsity {spec.target_sparsity:g}: at most {weights_permitted(model):,} weights may remain")
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
    layers = dict(walk(plain))
    for path, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            # A negative weight times 0 is -0.0, which does not compress as well as 0.0.
            masked = {key: value + 0.0 for key, value in layer.masked_kernels().items()}
            copy_variables([masked.get(id(v), v) for v in layer.base_variables()], layers[path].variables)
    return plain
