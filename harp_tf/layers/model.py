"""Reading and steering the pruned kernels of a model."""

import dataclasses
import math

import keras
import tensorflow as tf

from harp_tf import compression
from harp_tf.layers.pruned import PrunedLayer, recorded_calls
from harp_tf.layers.rebuild import walk
from harp_tf.layers.scores import KernelScores
from harp_tf.types import HarpError, PruningSpec, require_choice

_NORMALISATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)


@dataclasses.dataclass(frozen=True)
class PrunedKernel:
    """One pruned kernel of a model.

    Attributes:
        path: e.g. "block1/conv1/kernel".
        layer: the pruned layer.
        variable: the kernel variable.
        scores: its scores and rate.
    """

    path: str
    layer: PrunedLayer
    variable: keras.Variable
    scores: KernelScores


def pruned_kernels(model: keras.Model) -> list[PrunedKernel]:
    """All pruned kernels of a model, in the order of the network; empty for a dense model."""
    return [
        PrunedKernel(f"{path}/{kernel.name}", layer, variable, scores)
        for path, layer in walk(model)
        if isinstance(layer, PrunedLayer)
        for kernel, variable, scores in zip(layer.kernels, layer.kernel_variables(), layer.kernel_scores, strict=True)
    ]


def pruning_spec(model: keras.Model) -> PruningSpec:
    """The spec that the pruned layers of a model share.

    Raises:
        HarpError: if the model has no pruned layer.
    """
    for _, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            return layer.pruning
    raise HarpError(
        f"Model {model.name!r} has no pruned layers. Wrap it first: harp_tf.prune(model, target_sparsity=...)."
    )


def masked_kernels(model: keras.Model) -> dict[int, tf.Tensor]:
    """Selects the masks of a whole model once and returns the masked kernels for `shared_kernels`."""
    kernels: dict[int, tf.Tensor] = {}
    for _, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            kernels.update(layer.masked_kernels())
    return kernels


def kernel_costs(model: keras.Model) -> list[int]:
    """What each pruned kernel costs unpruned, in the unit of the model's spec: weights or multiply-adds.

    Args:
        model: a model made by `harp_tf.prune`, with a fixed input size if the budget counts FLOPs.

    Returns:
        One cost per kernel, in the order of `pruned_kernels`.

    Raises:
        HarpError: if FLOPs are asked for and the input size is open.
    """
    kernels = pruned_kernels(model)
    if pruning_spec(model).budget == "weights":
        return [kernel.scores.size for kernel in kernels]
    positions = _kernel_positions(model)
    return [compression.multiply_adds(k.scores.size, positions[id(k.layer)]) for k in kernels]


def _kernel_positions(model: keras.Model) -> dict[int, int]:
    """How often each pruned layer applies its kernel to one example, counted in a trace of the model."""
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    specs = keras.tree.map_structure(lambda t: tf.TensorSpec([1, *t.shape[1:]], t.dtype), inputs)
    if any(None in spec.shape for spec in keras.tree.flatten(specs)):
        raise HarpError(
            f"The FLOPs of model {model.name!r} depend on its input size, which is open: "
            f"{[tuple(t.shape) for t in model.inputs]}. Build it with a fixed size or use budget='weights'."
        )
    positions: dict[int, int] = {}
    with recorded_calls() as calls:
        tf.function(model).get_concrete_function(specs)
    for layer, inputs, outputs in calls:
        # A transposed convolution uses each weight once per input pixel, all other layers once per output.
        shape = inputs if "Transpose" in layer.base_class.__name__ else outputs
        channels_first = getattr(layer, "data_format", None) == "channels_first"
        count = math.prod(shape[2:] if channels_first else shape[1:-1])
        positions[id(layer)] = positions.get(id(layer), 0) + count
    return positions


def weights_permitted(model: keras.Model) -> int:
    """The budget of a pruned model: how many of its prunable weights may remain, floor(a_t * n).

    Raises:
        HarpError: if the model has no pruned layer, or its layers at their floors keep more than that.
    """
    scores = [kernel.scores for kernel in pruned_kernels(model)]
    budget = compression.weight_budget(sum(s.size for s in scores), pruning_spec(model).target_rate)
    compression.require_budget(budget, [s.least() for s in scores])
    return budget


def project_to_budget(model: keras.Model) -> bool:
    """Makes the model keep its promise: at most floor(a_t * n) weights kept, counted on the masks.

    Rates that keep it already stay as they are. Otherwise all rate logits are shifted by one common amount and
    the counts apportioned by largest remainder.

    Args:
        model: a model made by `harp_tf.prune`.

    Returns:
        Whether the rates had to be changed.

    Raises:
        HarpError: if even one weight per layer (or every rate at its floor) exceeds the budget.
    """
    kernels = pruned_kernels(model)
    spec = pruning_spec(model)
    budget = weights_permitted(model)
    if sum(k.scores.kept() for k in kernels) <= budget:
        return False
    counts = compression.project_counts(
        [float(keras.ops.convert_to_numpy(k.scores.logit)) for k in kernels],
        [k.scores.size for k in kernels],
        budget,
        spec.minimum_rate,
        [k.scores.least() for k in kernels],
    )
    for kernel, count in zip(kernels, counts, strict=True):
        kernel.scores.set_count(count)
    return True


def rate_table(model: keras.Model) -> dict[str, dict[str, float | int]]:
    """Per pruned kernel: {"weights": n, "kept": k, "rate": a}, in the order of the network."""
    return {
        k.path: {"weights": k.scores.size, "kept": k.scores.kept(), "rate": float(k.scores.rate())}
        for k in pruned_kernels(model)
    }


def set_stage(model: keras.Model, stage: str) -> None:
    """Freezes and unfreezes the variables of a pruned model for a stage.

    Compile afterwards, and call it again after loading a saved model: Keras saves no such flags.

    Args:
        model: a model made by `harp_tf.prune`.
        stage: "prune" trains scores and rates (as the model's mode says) and normalisation layers, "finetune"
            trains all weights under fixed masks. Layers whose `trainable` is False stay frozen.

    Raises:
        HarpError: for another stage, or a model without pruned layers.
    """
    require_choice("stage", stage, ("prune", "finetune"))
    mode = pruning_spec(model).mode
    for _, layer in walk(model):
        trains = stage == "finetune" or isinstance(layer, _NORMALISATIONS)
        # Keras has no public list of the variables that were created trainable (moving statistics were not).
        for part in layer._flatten_layers():
            if layer.trainable and part.trainable:
                for variable in part._trainable_variables:
                    variable.trainable = trains
    for kernel in pruned_kernels(model):
        active = stage == "prune" and kernel.layer.trainable
        kernel.scores.scores.trainable = active and mode in ("harp", "score")
        kernel.scores.logit.trainable = active and mode in ("harp", "rate")
