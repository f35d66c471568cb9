"""The callback that saves all that decides the rest of a training, and puts it back."""

import time
from collections.abc import Mapping
from typing import Protocol

import keras
import numpy as np

from harp_tf.training.callbacks import KeepBest
from harp_tf.training.checkpoint_store import CheckpointStore, Position
from harp_tf.training.distribution import Votes
from harp_tf.training.interruption import Interrupted, Interruption
from harp_tf.training.watchdogs import not_finite
from harp_tf.types import HarpError

_SHARE = 0.02
"""The end of an epoch is saved when the saving takes at most so much of the time since the last one."""
_STEPS = 10
"""Several workers ask each other whether to save once in so many steps: asking waits for the device."""


class Stateful(Protocol):
    """A callback whose own state decides what comes."""

    def state(self) -> dict[str, np.ndarray]:
        """The state by name."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`."""


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of an `AdversarialModel` in training, and goes on from the newest checkpoint.

    What is saved: the network with its scores, rates and the random states of its layers, the optimiser, gamma, the
    number of steps, the perturbation of "free", the figures of the epoch that has begun, and the state of other
    callbacks. A training that goes on ends with the same bits (on a CPU) as one that was never interrupted, if it is
    fitted from `start` on:

    `model.fit(data_from_start, initial_epoch=start.epoch, initial_step=start.step, callbacks=[..., checkpoint])`

    The callback must be the last one. It does not wait for the device but when it saves.

    Args:
        store: where the checkpoints are.
        minutes: time between checkpoints within an epoch; 0 saves before every step. The end of an epoch is saved
            too, unless it comes so soon that saving would slow down the training, and the end of the last always.
        best: the callback that chooses the epoch.
        others: more callbacks with a state, by name.
        interruption: asks to save and end.
        votes: with several workers, which save at the same steps: what one of them wants, all do.
    """

    def __init__(
        self,
        store: CheckpointStore,
        minutes: float = 10.0,
        *,
        best: KeepBest | None = None,
        others: Mapping[str, Stateful] | None = None,
        interruption: Interruption | None = None,
        votes: Votes | None = None,
    ):
        super().__init__()
        self._store, self._seconds, self._best = store, 60.0 * minutes, best
        self._callbacks: dict[str, Stateful] = {**({} if best is None else {"best": best}), **(others or {})}
        self._interruption, self._votes = interruption or Interruption(), votes
        found = store.newest()
        self.start = Position() if found is None else found[0]
        self._arrays = None if found is None else found[1]
        self._cost = 0.0

    def state_of(self, name: str) -> dict[str, np.ndarray]:
        """The state of a callback in the checkpoint that the training goes on from, {} if it begins."""
        prefix, arrays = f"callbacks/{name}/", self._arrays or {}
        return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}

    def on_train_begin(self, logs=None):
        self._saved = time.monotonic()
        self._restore()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if epoch == self.start.epoch and self.start.step:
            # Keras has forgotten the figures of the epoch, and other callbacks took this for its beginning.
            self._restore()
        self._arrays = None

    def on_train_batch_begin(self, batch, logs=None):
        here = Position(self._epoch, batch)
        if not batch or here <= self.start or (self._votes is not None and batch % _STEPS):
            return
        asked = self._asked()
        if not asked and not self._any(time.monotonic() - self._saved >= self._seconds):
            return
        if self._lost():  # goes wrong at the end of the epoch; what was saved before is good
            self._saved = time.monotonic()
        else:
            self._save(here)
        if asked:
            self._end(here)

    def on_test_batch_begin(self, batch, logs=None):
        if self._interruption.received is not None and self._votes is None:
            # Rates and figures are those of the validation now: nothing to save.
            raise Interrupted(self._interruption.received, f"in the validation of epoch {self._epoch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        here, passed = Position(epoch + 1), time.monotonic() - self._saved
        asked = self._asked()
        last = epoch + 1 == self.params["epochs"]
        if asked or last or self._any(passed >= min(self._seconds, self._cost / _SHARE)):
            self._save(here, best=self._best is not None and self._best.best_epoch == epoch)
        if asked:
            self._end(here)

    def _any(self, wanted: bool) -> bool:
        return wanted if self._votes is None else any(self._votes(wanted))

    def _asked(self) -> bool:
        """Whether this process is to end, or another that trains with it."""
        if self._votes is not None:
            asked = max(self._votes(self._interruption.received or 0))
            self._interruption.received = int(asked) or None
        return self._interruption.received is not None

    def _lost(self) -> bool:
        """Whether a figure of the epoch, the loss for one, is no finite number any more."""
        return not all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in self.model.metrics_variables)

    def _save(self, here: Position, best: bool = False) -> None:
        if not_finite(self.model):
            return  # `StopOnNaN` ends this at its next look, and the checkpoints from before stay
        begin = time.monotonic()
        self._store.save(here, {**self._variables(), **self._states()}, best)
        self._saved = time.monotonic()
        self._cost = self._saved - begin

    def _end(self, here: Position) -> None:
        assert self._interruption.received is not None
        raise Interrupted(self._interruption.received, f"after epoch {here.epoch}, step {here.step}")

    def _variables(self) -> dict[str, keras.Variable]:
        self.model.own_state()  # puts together what replicas keep each for itself
        groups = {
            "model": self.model.variables,
            "optimizer": self.model.optimizer.variables,
            "figures": self.model.metrics_variables,
        }
        return {f"{group}/{i}": variable for group, found in groups.items() for i, variable in enumerate(found)}

    def _states(self) -> dict[str, np.ndarray]:
        return {
            f"callbacks/{name}/{key}": np.asarray(value)
            for name, callback in self._callbacks.items()
            for key, value in callback.state().items()
        }

    def _restore(self) -> None:
        if self._arrays is None:
            return
        variables = self._variables()
        saved = {name: array for name, array in self._arrays.items() if not name.startswith("callbacks/")}
        shapes = {name: tuple(array.shape) for name, array in saved.items()}
        if shapes != {name: tuple(variable.shape) for name, variable in variables.items()}:
            raise HarpError(
                f"The checkpoints in {self._store.folder} are of another network, loss or optimiser than this "
                "training. Begin anew, with --restart on the command line, or choose another folder."
            )
        for name, variable in variables.items():
            variable.assign(saved[name])
        for name, callback in self._callbacks.items():
            callback.restore(self.state_of(name))
