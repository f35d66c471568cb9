"""TensorFlow Model Optimization's own magnitude pruning, trained against the same adversary."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harp_tf.baselines.base import WEIGHTS_ONLY, Method, keep_all, keep_largest, require_steps
from harp_tf.baselines.twin import Twin, require
from harp_tf.layers import PrunedLayer, pruned_kernels
from harp_tf.training import AdversarialModel
from harp_tf.types import HarpError

UPDATES = 20
"""How often tfmot updates its masks, all in the first three quarters of the stage."""


def pruned_twin(network: keras.Model, counts: dict[int, int], steps: int) -> Twin:
    """A twin whose pruned layers are wrapped by tfmot's `prune_low_magnitude`.

    Args:
        network: a network whose masks keep single weights.
        counts: how many weights of each kernel may remain, by the id of its variable.
        steps: number of steps of the stage. Sparsity rises from 0 along tfmot's `PolynomialDecay`, a cubic, and is
            there after three quarters of them.

    Raises:
        HarpError: if tfmot is missing, or cannot prune the network.
    """
    tfmot = require("tensorflow_model_optimization")
    end = max(3 * steps // 4, 1)
    frequency = max(end // UPDATES, 1)

    def wrap(layer: keras.layers.Layer, twin: Any) -> Any:
        if not isinstance(layer, PrunedLayer):
            return twin
        variable = layer.kernel_variables()[0]
        size = math.prod(variable.shape)
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=1.0 - counts[id(variable)] / size,
            begin_step=0,
            end_step=end // frequency * frequency,
            frequency=frequency,
        )
        return tfmot.sparsity.keras.prune_low_magnitude(twin, pruning_schedule=schedule)

    twin = Twin(network, wrap)
    for layer in {id(kernel.layer): kernel.layer for kernel in pruned_kernels(network)}.values():
        found = [tuple(weight.shape) for weight, _, _ in twin.layers[id(layer)].pruning_vars]
        if found != [tuple(variable.shape) for variable in layer.kernel_variables()] or len(found) > 1:
            raise HarpError(
                f"tfmot prunes no {layer.base_class.__name__} like {layer.name!r}. Leave it unpruned, for all methods "
                f"that are compared, with --skip={layer.name}."
            )
    return twin


def check(network: keras.Model, dense: keras.Model) -> None:
    """Refuses a network that tfmot cannot prune, or that has no faithful twin.

    Args:
        network: wrapped by `harp_tf.prune`, not trained yet.
        dense: the model that was wrapped.

    Raises:
        HarpError: see above.
    """
    counts = {id(kernel.variable): kernel.scores.kept() for kernel in pruned_kernels(network)}
    pruned_twin(network, counts, steps=1).check(dense)


class TfmotTraining(AdversarialModel):
    """Trains a network through a Keras 2 twin under tfmot's pruning: its schedule, its masks, its callback.

    Each step is one of the twin, on the same loss and attack; its gradients update the network, whose weights the twin
    has again in the next step. All state is in the network and in `masks`. The network's own masks become tfmot's when
    it is validated. The last epoch is kept, in which the sparsity is that of the network that was given.

    Args:
        network: a network whose masks keep what may remain, set to train its weights.
        *args: passed to AdversarialModel.
        **kwargs: likewise.

    Reference:
        Zhu & Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression, 2017, which
        tensorflow-model-optimization implements.
    """

    chooses_epoch = False

    def __init__(self, network: keras.Model, *args, **kwargs):
        super().__init__(network, *args, **kwargs)
        self._counts = {id(kernel.variable): kernel.scores.kept() for kernel in self._kernels}
        self._twin: Any = None
        self._on_twin = False
        self.masks = [
            keras.Variable(tf.ones(k.variable.shape), trainable=False, name=f"mask_{i}")
            for i, k in enumerate(self._kernels)
        ]

    def own_state(self) -> dict[str, keras.Variable]:
        """See `AdversarialModel`: with tfmot's masks."""
        return {**super().own_state(), **{mask.name: mask for mask in self.masks}}

    def compile(self, *args, **kwargs) -> None:
        """As `AdversarialModel.compile`, but never for XLA, which nobody promises for Keras 2 and tfmot."""
        super().compile(*args, **{**kwargs, "jit_compile": False})

    def fit(self, *args, epochs: int = 1, steps_per_epoch: int | None = None, **kwargs):
        """As `AdversarialModel.fit`; the number of steps sets the schedule, and validation is needed.

        Raises:
            HarpError: if the network cannot be pruned by tfmot, or without steps_per_epoch.
        """
        steps_per_epoch = require_steps(steps_per_epoch)
        self._twin = pruned_twin(self.network, self._counts, epochs * steps_per_epoch)
        self._pruned = [self._twin.layers[id(kernel.layer)] for kernel in self._kernels]
        self._updater = require("tensorflow_model_optimization").sparsity.keras.UpdatePruningStep()
        self._updater.set_model(self._twin.model)
        self._updater.on_train_begin()
        keep_all(self._kernels)
        return super().fit(*args, epochs=epochs, steps_per_epoch=steps_per_epoch, **kwargs)

    def evaluate(self, *args, **kwargs):
        """As `AdversarialModel.evaluate`, on the network with tfmot's masks."""
        if self._twin is not None:
            self._show_masks()
        return super().evaluate(*args, **kwargs)

    def _show_masks(self) -> None:
        self._take()
        self._updater.on_epoch_end(-1)  # it masks the weights
        self._twin.give()
        for kernel, mask in zip(self._kernels, self.masks, strict=True):
            kept = keras.ops.convert_to_numpy(mask)
            magnitudes = abs(keras.ops.convert_to_numpy(kernel.variable))
            keep_largest(kernel, kept * (magnitudes + np.finfo(np.float32).tiny), int(kept.sum()))

    def _take(self) -> None:
        self._twin.take()
        for layer, mask in zip(self._pruned, self.masks, strict=True):
            layer.pruning_vars[0][1].assign(tf.convert_to_tensor(mask))
            # Its own count would rise with every pass, and a loss may make several in a step.
            layer.pruning_step.assign(tf.cast(tf.convert_to_tensor(self.steps), tf.int64))

    def _gradients(self, images, craft, labels, weights, variables, look_at_clean):
        """See `AdversarialModel`: computed by the twin."""
        others = {id(own): other for own, other in self._twin.pairs}
        self._take()
        self._on_twin = True
        twins = [others[id(variable)] for variable in variables]
        found = super()._gradients(images, craft, labels, weights, twins, look_at_clean)
        self._on_twin = False
        self._twin.give()
        for layer, mask in zip(self._pruned, self.masks, strict=True):
            mask.assign(tf.convert_to_tensor(layer.pruning_vars[0][1]))
        return found

    def _train(self, images: tf.Tensor) -> tf.Tensor:
        return self._twin.model(images, training=True) if self._on_twin else super()._train(images)

    def _infer(self, images: tf.Tensor) -> tf.Tensor:
        return self._twin.model(images, training=False) if self._on_twin else super()._infer(images)


_ONLY = {**WEIGHTS_ONLY, "distribute": "none", "precision": "float32"}

TFMOT = Method(only=_ONLY, check=check, trains="finetune", trainer=TfmotTraining)
"""What tensorflow-model-optimization leaves: gradual magnitude pruning, at the same rate in all layers."""
