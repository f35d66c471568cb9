"""Pruned layers: a Keras layer that runs with its kernel multiplied by a learned mask."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import get_stateless_scope

from harp_tf.layers.registry import Kernel, kernels_of
from harp_tf.layers.scores import KernelScores
from harp_tf.types import HarpError, PruningSpec

_shared_kernels: contextvars.ContextVar[Mapping[int, tf.Tensor]] = contextvars.ContextVar(
    "harp_shared_kernels", default={}
)
_recorded_calls: contextvars.ContextVar[list | None] = contextvars.ContextVar(
    "harp_recorded_calls", default=None
)


class PrunedLayer:
    """Mixin in front of a Keras layer class; made by `pruned_class`, used through `harp_tf.prune`.

    The layer's own `call` runs unchanged, with each kernel replaced by kernel * mask for the time of the call.
    Scores and rate live in a child layer per kernel (`KernelScores`).
    """

    base_class: type
    kernels: tuple[Kernel, ...]

    def __init__(self, *args, pruning: PruningSpec | dict, **kwargs):
        super().__init__(*args, **kwargs)
        self.pruning = pruning if isinstance(pruning, PruningSpec) else PruningSpec(**pruning)
        self.kernel_scores: list[KernelScores] = []

    def build(self, input_shape) -> None:
        super().build(input_shape)
        for kernel in self.kernels:
            variable = getattr(self, kernel.name)
            self.kernel_scores.append(
                KernelScores(
                    tuple(variable.shape),
                    kernel.fan_in(tuple(variable.shape)),
                    self.pruning.minimum_rate,
                    name=f"{kernel.name}_scores",
                )
            )

    def kernel_variables(self) -> list[keras.Variable]:
        """The kernel variables, in the order of `kernel_scores`."""
        return [getattr(self, kernel.name) for kernel in self.kernels]

    def masked_kernels(self) -> dict[int, tf.Tensor]:
        """Computes kernel * mask of every kernel, keyed by the id of the kernel variable."""
        return {
            id(variable): tf.convert_to_tensor(variable) * tf.cast(scores.mask(), variable.dtype)
            for variable, scores in zip(self.kernel_variables(), self.kernel_scores, strict=True)
        }

    def call_masked(self, inputs, *args, **kwargs):
        """Runs the layer's own call with masked kernels: those computed for the whole step, or its own."""
        calls = _recorded_calls.get()
        variables = self.kernel_variables()
        shared = _shared_kernels.get()
        mine = shared if all(id(v) in shared for v in variables) else self.masked_kernels()
        outer = get_stateless_scope()
        scope = keras.StatelessScope([(v, mine[id(v)]) for v in variables])
        if outer is not None:
            # A scope hides the one around it: hand on what that one substitutes.
            scope.state_mapping = {**outer.state_mapping, **scope.state_mapping}
        with scope:
            outputs = super().call(inputs, *args, **kwargs)
        if calls is not None:
            calls.append((self, tuple(inputs.shape), tuple(outputs.shape)))
        return outputs

    def get_config(self) -> dict:
        return {**super().get_config(), "pruning": self.pruning.as_dict()}


@functools.cache
def pruned_class(base: type) -> type:
    """The pruned form of a registered layer class.

    Args:
        base: a layer class with registered kernels.

    Returns:
        A subclass of `PrunedLayer` and `base` named Pruned<base>, registered for Keras serialisation.

    Raises:
        HarpError: if no kernels are registered for `base`.
    """
    kernels = kernels_of(base)
    if not kernels:
        raise HarpError(
            f"No prunable kernels are known for {base.__name__}. Register them with "
            f"harp_tf.register_kernels({base.__name__}, 'kernel')."
        )

    @functools.wraps(base.call)
    def call(self, inputs, *args, **kwargs):
        return self.call_masked(inputs, *args, **kwargs)

    name = f"Pruned{base.__name__}"
    doc = f"{base.__name__} with a learned mask on {', '.join(k.name for k in kernels)}."
    members = {"base_class": base, "kernels": kernels, "call": call, "__doc__": doc, "__module__": __name__}
    cls = type(name, (PrunedLayer, base), members)
    return keras.saving.register_keras_serializable("harp_tf")(cls)


@contextlib.contextmanager
def shared_kernels(kernels: Mapping[int, tf.Tensor]) -> Iterator[None]:
    """Inside this context pruned layers use the given masked kernels instead of selecting anew.

    Args:
        kernels: masked kernels keyed by the id of their variable, as `masked_kernels` returns them.
    """
    token = _shared_kernels.set(kernels)
    try:
        yield
    finally:
        _shared_kernels.reset(token)


@contextlib.contextmanager
def recorded_calls() -> Iterator[list[tuple[PrunedLayer, tuple, tuple]]]:
    """Inside this context every call of a pruned layer adds (layer, input shape, output shape) to the list."""
    calls: list[tuple[PrunedLayer, tuple, tuple]] = []
    token = _recorded_calls.set(calls)
    try:
        yield calls
    finally:
        _recorded_calls.reset(token)
