"""Pruned layers: a Keras layer that runs with its kernel multiplied by a learned mask."""

import contextlib
import contextvars
import functools
import types
from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import AutocastScope

from harp_tf.layers.kernel import Kernel
from harp_tf.layers.scores import KernelScores
from harp_tf.types import PruningSpec

_shared_kernels: contextvars.ContextVar[Mapping[int, tf.Tensor]] = contextvars.ContextVar(
    "harp_shared_kernels", default=types.MappingProxyType({})
)
_recorded_calls: contextvars.ContextVar[list | None] = contextvars.ContextVar("harp_recorded_calls", default=None)


class PrunedLayer(keras.layers.Layer):
    """Mixin in front of a Keras layer class; made by `register_kernels`, used through `harp_tf.prune`.

    The layer's own `call` runs unchanged, with each kernel replaced by kernel * mask for the time of the call.
    Scores and rate live in a child layer per kernel (`KernelScores`). Regularisers and constraints of a kernel act
    on the variable, which holds the removed weights too.

    Args:
        *args: passed to the Keras layer.
        pruning: the spec that all pruned layers of a model share, or its fields as a dict.
        **kwargs: passed to the Keras layer.
    """

    base_class: type[keras.layers.Layer]
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

    def base_variables(self) -> list[keras.Variable]:
        """The variables that the plain layer has too, in its order: all but scores and rates."""
        learned = {id(v) for scores in self.kernel_scores for v in scores.variables}
        return [v for v in self.variables if id(v) not in learned]

    def masked_kernels(self) -> dict[int, tf.Tensor]:
        """Computes kernel * mask of every kernel, keyed by the id of the kernel variable."""
        # In the variables' own precision: under mixed precision a call would read them as float16, and scores
        # that differ would tie.
        with AutocastScope(None):
            return {
                id(variable): tf.convert_to_tensor(variable) * tf.cast(scores.mask(), variable.dtype)
                for variable, scores in zip(self.kernel_variables(), self.kernel_scores, strict=True)
            }

    def call_masked(self, *args, **kwargs):
        """Runs the layer's own call with masked kernels: those computed for the whole step, or its own."""
        variables = self.kernel_variables()
        shared = _shared_kernels.get()
        mine = shared if all(id(v) in shared for v in variables) else self.masked_kernels()
        scope = keras.StatelessScope([(v, mine[id(v)]) for v in variables], collect_losses=True)
        outer = get_stateless_scope()
        if outer is not None:
            # A scope hides the one around it: hand on what that one substitutes.
            scope.state_mapping = {**outer.state_mapping, **scope.state_mapping}
        before = dict(scope.state_mapping)
        with scope:
            outputs = super().call(*args, **kwargs)
        # It also holds back what the layer's own call adds or assigns.
        for loss in scope.losses:
            self.add_loss(loss)
        for variable in self.variables:
            value = scope.get_current_value(variable)
            if value is not before.get(id(variable)):
                variable.assign(value)
        calls = _recorded_calls.get()
        if calls is not None:
            first = next(iter([*args, *kwargs.values()]))
            calls.append((self, tuple(first.shape), tuple(outputs.shape)))
        return outputs

    def get_config(self) -> dict:
        return {**super().get_config(), "pruning": self.pruning.as_dict()}


def make_pruned_class(base: type[keras.layers.Layer], kernels: Sequence[Kernel]) -> type[PrunedLayer]:
    """Makes the pruned form of a layer class; `register_kernels` calls it once per class.

    Args:
        base: a Keras layer class.
        kernels: its prunable kernels.

    Returns:
        A subclass of `PrunedLayer` and `base`, named Pruned<name under which Keras saves base>.
    """

    @functools.wraps(base.call)
    def call(self, *args, **kwargs):
        return self.call_masked(*args, **kwargs)

    name = "Pruned" + keras.saving.get_registered_name(base).replace(">", ".")
    doc = f"{base.__name__} with a learned mask on {', '.join(k.name for k in kernels)}."
    members = {"base_class": base, "kernels": tuple(kernels), "call": call, "__doc__": doc, "__module__": __name__}
    return type(name, (PrunedLayer, base), members)


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
