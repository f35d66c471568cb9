"""Pruned layers: a Keras layer that runs with its kernel multiplied by a learned mask."""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import types
from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import AutocastScope

from harp_tf.layers.kernel import Kernel
from harp_tf.layers.mask_sources import Bounds, ChannelMasks, MaskSource, WeightMasks
from harp_tf.layers.part import Part
from harp_tf.layers.scores import Scores
from harp_tf.layers.stages import free_variables
from harp_tf.types import PruningSpec

_shared_kernels: contextvars.ContextVar[Mapping[int, tf.Tensor]] = contextvars.ContextVar(
    "harp_shared_kernels", default=types.MappingProxyType({})
)


class PrunedLayer(keras.layers.Layer):
    """Mixin in front of a Keras layer class; made by `register_kernels`, used through `harp_tf.prune`.

    The layer's own `call` runs unchanged, with each kernel replaced by kernel * mask for the time of the call.
    Scores and rates live in child layers: one per kernel, or one per channel space that the layer reads. Regularisers
    and constraints of a kernel act on the variable, which holds the removed weights too.

    Args:
        *args: passed to the Keras layer.
        pruning: the spec that all pruned layers of a model share, or its fields as a dict.
        rate_bounds: (smallest, largest) rate by name of a kernel or a channel space, where they differ from the spec's.
        reads: for channel granularity, the `Part`s of the layer's input axis, as lists.
        **kwargs: passed to the Keras layer.
    """

    base_class: type[keras.layers.Layer]
    kernels: tuple[Kernel, ...]

    def __init__(
        self,
        *args,
        pruning: PruningSpec | dict,
        rate_bounds: Bounds | None = None,
        reads: Sequence[list] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._set_pruning(pruning, rate_bounds, reads)

    def _set_pruning(
        self, pruning: PruningSpec | dict, rate_bounds: Bounds | None = None, reads: Sequence[list] | None = None
    ) -> None:
        self.pruning = pruning if isinstance(pruning, PruningSpec) else PruningSpec(**pruning)
        self.rate_bounds = {name: tuple(bounds) for name, bounds in (rate_bounds or {}).items()}
        self.reads = None if reads is None else [Part.of(part) for part in reads]
        self.kernel_scores: list[Scores] = []

    @classmethod
    def adopt(cls, layer: keras.layers.Layer, pruning: PruningSpec | dict, rate_bounds: Bounds | None = None) -> None:
        """Turns a built layer of class `base_class` into a pruned one, in place: its variables stay.

        Args:
            layer: a layer that something else refers to, so that it cannot be replaced.
            pruning: as for the constructor.
            rate_bounds: likewise.
        """
        layer.__class__ = cls
        layer._tracker.unlock()
        layer._set_pruning(pruning, rate_bounds)
        with layer._open_name_scope():
            layer._add_scores()
        layer._tracker.lock()

    def _add_scores(self) -> None:
        kernels = {kernel.name: (kernel.of(self), getattr(self, kernel.name)) for kernel in self.kernels}
        limits = (self.pruning.minimum_rate, 1.0)
        self.mask_source: MaskSource = (
            WeightMasks(kernels, limits, self.rate_bounds)
            if self.reads is None
            else ChannelMasks(kernels, self.reads, limits, self.rate_bounds, self.pruning.channel_multiple)
        )
        self.kernel_scores = list(self.mask_source.scores.values())
        for scores in self.kernel_scores:
            scores.rate_gradient = self.pruning.rate_gradient
        self.set_stage(self.pruning.stage)

    def set_stage(self, stage: str) -> None:
        """Freezes and unfreezes the layer's variables for a stage, see `layers.set_stage`; saved with the layer."""
        self.pruning = dataclasses.replace(self.pruning, stage=stage)
        free_variables(self, stage)
        active = stage != "finetune" and self.trainable
        for scores in self.kernel_scores:
            scores.scores.trainable = active and self.pruning.mode in ("harp", "score")
            scores.logit.trainable = active and self.pruning.mode in ("harp", "rate")

    def kernel_variables(self) -> list[keras.Variable]:
        """The kernel variables, in the order of `kernels`."""
        return [getattr(self, kernel.name) for kernel in self.kernels]

    def base_variables(self) -> list[keras.Variable]:
        """The variables that the plain layer has too, in its order: all but scores and rates."""
        learned = {id(v) for scores in self.kernel_scores for v in scores.variables}
        return [v for v in self.variables if id(v) not in learned]

    def masked_kernels(self, chosen: dict[str, tf.Tensor] | None = None) -> dict[int, tf.Tensor]:
        """Computes kernel * mask of every kernel, keyed by the id of the kernel variable.

        Args:
            chosen: masks of channel spaces by name, which layers of a model share; takes up those of this layer.
        """
        # In the variables' own precision: under mixed precision a call would read them as float16, and scores
        # that differ would tie.
        with AutocastScope(None):
            return self._times(self.mask_source.masks({} if chosen is None else chosen))

    def remaining_kernels(self) -> dict[int, tf.Tensor]:
        """What is left of every kernel when the model is stripped, keyed likewise."""
        with AutocastScope(None):
            return self._times(self.mask_source.final_masks())

    def _times(self, masks: Sequence[tf.Tensor | None]) -> dict[int, tf.Tensor]:
        kernels = {id(v): (tf.convert_to_tensor(v), m) for v, m in zip(self.kernel_variables(), masks, strict=True)}
        return {key: k if mask is None else k * tf.cast(mask, k.dtype) for key, (k, mask) in kernels.items()}

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
        return outputs

    def base_config(self) -> dict:
        """The configuration of the plain layer."""
        config = super().get_config()
        if not getattr(self.base_class.get_config, "_is_default", False):
            return config
        # A class without get_config(): Keras notes the arguments that its constructor got, for such classes alone.
        given = self._auto_config.config if hasattr(self, "_auto_config") else {}
        return {**config, **{name: value for name, value in given.items() if name in _arguments(self.base_class)}}

    def get_config(self) -> dict:
        config = {**self.base_config(), "pruning": self.pruning.as_dict()}
        if self.rate_bounds:
            config["rate_bounds"] = {name: list(bounds) for name, bounds in self.rate_bounds.items()}
        if self.reads is not None:
            config["reads"] = [part.as_list() for part in self.reads]
        return config


def _arguments(layer_class: type[keras.layers.Layer]) -> set[str]:
    """The names of what the constructor of a layer class takes itself."""
    return set(inspect.signature(layer_class.__init__).parameters)


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

    @functools.wraps(base.build)  # Keras passes the shapes by the names of the arguments
    def build(self, *args, **kwargs):
        base.build(self, *args, **kwargs)
        self._add_scores()

    name = "Pruned" + keras.saving.get_registered_name(base).replace(">", ".")
    doc = f"{base.__name__} with a learned mask on {', '.join(k.name for k in kernels)}."
    members = {"base_class": base, "kernels": tuple(kernels), "build": build, "call": call}
    members |= {"__doc__": doc, "__module__": __name__}
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
