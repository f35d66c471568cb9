"""How a training is saved: its configuration, and the state that Keras does not save by itself."""

import abc
from collections.abc import Mapping, MutableMapping
from typing import Self

import keras
import numpy as np

from harp_tf import losses
from harp_tf.attacks import Attack
from harp_tf.types import HarpError


class SavedTraining(keras.Model, abc.ABC):
    """The part of `AdversarialModel` that Keras' saving calls: what is written, and how it is read."""

    network: keras.Model
    robust_loss: losses.RobustLoss
    attack: Attack | None
    weight_decay: float
    seed: int
    accumulate: int

    def get_config(self) -> dict:
        """What the constructor takes, in the form that Keras writes to JSON."""
        return {
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "network": keras.saving.serialize_keras_object(self.network),
            "loss": keras.saving.serialize_keras_object(self.robust_loss),
            "attack": keras.saving.serialize_keras_object(self.attack),
            "weight_decay": self.weight_decay,
            "seed": self.seed,
            "accumulate": self.accumulate,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Self:
        """The inverse of `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("network", "loss", "attack")
        }
        return cls(**{**config, **parts})

    def compile_from_config(self, config: dict) -> None:
        """Compiles as the saved model was; called by keras.saving.load_model."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.build_optimizer()

    def build_optimizer(self) -> None:
        """Makes the variables of the optimiser of a compiled model."""
        if self.compiled and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def build_metrics(self, logits: np.ndarray | None) -> None:
        """Makes the variables of the metrics of `compile`; left to the first step, they come too late for a checkpoint.

        Args:
            logits: floats [n, classes], any of the network; None does nothing.
        """
        if logits is None or self.distribute_strategy.num_replicas_in_sync > 1:  # for several devices Keras does it
            return
        with self.distribute_strategy.scope():
            self.compute_metrics(None, np.zeros(len(logits), "int32"), logits.astype("float32"))
        self.reset_metrics()

    def load_weights(self, filepath, *args, **kwargs) -> None:
        """As keras.Model.load_weights; a compiled model takes the state of its optimiser too."""
        self.build_optimizer()  # variables that do not exist yet would be skipped
        super().load_weights(filepath, *args, **kwargs)

    @abc.abstractmethod
    def own_state(self) -> dict[str, keras.Variable]:
        """The variables that belong neither to the network nor to the optimiser, by name."""

    def save_own_variables(self, store: MutableMapping) -> None:
        """Saves `own_state` and the random states of the network's layers; called by `save` and `save_weights`."""
        for name, variable in {**self.own_state(), **random_states(self.network)}.items():
            store[name] = variable

    def load_own_variables(self, store: Mapping) -> None:
        """The inverse of `save_own_variables`.

        Raises:
            HarpError: if the store holds other variables.
        """
        variables = {**self.own_state(), **random_states(self.network)}
        if set(store.keys()) != set(variables):
            raise HarpError(
                f"The saved training holds {', '.join(sorted(store.keys()))}, and this one needs "
                f"{', '.join(sorted(variables))}. Load it into an AdversarialModel of the same loss and network."
            )
        for name, variable in variables.items():
            variable.assign(store[name])


def random_states(network: keras.Model) -> dict[str, keras.Variable]:
    """The states of the random numbers of a network's layers, such as Dropout, by the order in which they stand."""
    generators = [generator for layer in network._flatten_layers() for generator in layer._seed_generators]
    return {f"random_{i}": generator.state for i, generator in enumerate(dict.fromkeys(generators))}
