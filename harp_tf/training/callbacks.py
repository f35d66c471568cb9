"""Callbacks: the step-wise regularisation, the choice of the best epoch, records."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harp_tf import compression
from harp_tf.layers import project_to_budget, pruned_kernels, rate_table
from harp_tf.training.resources import WatchMemory
from harp_tf.training.watchdogs import Watchdog
from harp_tf.types import HarpError, is_number


class StepwiseRegularization(keras.callbacks.Callback):
    """Drives gamma, the factor of the size penalty L_hw.

    In epoch e gamma is (e + 1) * gamma_0. After the first epoch at whose end L_hw rounds to 0 at four decimals it is
    frozen at its value, for good. Both lie in variables of the model, `gamma` and `gamma_frozen`, and are saved with
    it: a training that goes on with `initial_epoch` goes on with them, and so does another `fit` of the same model.

    Args:
        gamma: gamma_0, > 0. It has to fit the number of steps: 0.01 for thousands of steps, 0.1 for hundreds.

    Raises:
        HarpError: if gamma is not positive, or the model is not an AdversarialModel of a pruned network.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023, section 3.3.
    """

    drives_gamma = True

    def __init__(self, gamma: float = 0.01):
        super().__init__()
        if not is_number(gamma) or not 0.0 < gamma < math.inf:
            raise HarpError(
                f"gamma must be a positive number, received {gamma!r}. 0.01 fits thousands of steps, 0.1 hundreds."
            )
        self.initial = gamma
        self._reached = False

    def on_train_begin(self, logs=None):
        if not hasattr(self.model, "gamma") or not pruned_kernels(self.model.network):
            raise HarpError(
                "StepwiseRegularization drives an AdversarialModel whose network is pruned. Wrap the network first: "
                "AdversarialModel(harp_tf.prune(model, target_sparsity=0.99), ...)."
            )

    def on_epoch_begin(self, epoch, logs=None):
        # Decided here and not at the end of the epoch before: so the model that another callback saves then needs
        # nothing from this one, whichever comes first.
        model = self.model
        gamma = float(keras.ops.convert_to_numpy(model.gamma))
        if gamma > 0.0 and self._at_target():
            model.gamma_frozen.assign(True)
        frozen = gamma if bool(keras.ops.convert_to_numpy(model.gamma_frozen)) else None
        model.gamma.assign(compression.stepwise_gamma(self.initial, epoch, frozen))

    def on_epoch_end(self, epoch, logs=None):
        self._reached = self._at_target()

    def on_train_end(self, logs=None):
        # The rates are projected onto the target now, by `fit` or with the best weights. The next `fit` must not take
        # that for an epoch that has reached it: without a gamma it does not ask.
        if not self._reached and not bool(keras.ops.convert_to_numpy(self.model.gamma_frozen)):
            self.model.gamma.assign(0.0)

    def _at_target(self) -> bool:
        return compression.reaches_target(float(keras.ops.convert_to_numpy(self.model.hw_loss())))


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the best epoch by adversarial accuracy on the validation split.

    During validation a pruned network runs with its rates projected onto the budget: what is measured and kept is
    a model that could leave the stage. Training goes on with the rates as they were. Ties are decided by natural
    accuracy, then for the later epoch. The best weights are restored when the training ends. Without an attack
    the natural accuracy decides.

    After the training `best` holds the (adversarial, natural) accuracy of the kept epoch, `best_epoch` its number
    from 0, and `projected` says whether its rates exceeded the budget and were projected onto it.

    Raises:
        HarpError: if the model is no AdversarialModel, or an epoch ends without validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logits: list[np.ndarray] = []
        self._epoch = 0
        self._forget()

    def _forget(self) -> None:
        self.best: tuple[float, float] | None = None
        self.best_epoch: int | None = None
        self.projected = False
        self._weights: list[np.ndarray] = []

    def on_train_begin(self, logs=None):
        self._forget()  # another training; a checkpoint restores after this
        if not hasattr(self.model, "network"):
            raise HarpError(
                f"KeepBest needs a harp_tf.AdversarialModel, received {type(self.model).__name__}. Pass the callback "
                "to the fit() of one."
            )
        self._kernels = pruned_kernels(self.model.network)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_test_begin(self, logs=None):
        self._logits = [keras.ops.convert_to_numpy(k.scores.logit) for k in self._kernels]
        self._projected_now = bool(self._kernels) and project_to_budget(self.model.network)

    def on_test_end(self, logs=None):
        figures = (logs.get("adversarial_accuracy", logs["natural_accuracy"]), logs["natural_accuracy"])
        if self.best is None or figures >= self.best or not self.model.chooses_epoch:
            self.best, self.best_epoch = figures, self._epoch
            self.projected = self._projected_now
            self._weights = self.model.network.get_weights()
        for kernel, logit in zip(self._kernels, self._logits, strict=True):
            kernel.scores.logit.assign(logit)
            kernel.follow()

    def on_epoch_end(self, epoch, logs=None):
        if self.best is None:
            raise HarpError(
                "KeepBest chooses the epoch by the figures on a validation split, and there are none. Pass "
                "validation_data to fit(), and validate after every epoch."
            )

    def on_train_end(self, logs=None):
        if self._weights:
            self.model.network.set_weights(self._weights)

    def state(self) -> dict[str, np.ndarray]:
        """The best epoch so far with its weights, for a checkpoint; {} before the first validation."""
        if self.best is None:
            return {}
        weights = {f"weights/{i}": weights for i, weights in enumerate(self._weights)}
        chosen = {"best": self.best, "best_epoch": self.best_epoch, "projected": self.projected}
        return {**{name: np.asarray(value) for name, value in chosen.items()}, **weights}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        if not state:
            return
        adversarial, natural = state["best"].tolist()
        self.best, self.best_epoch = (adversarial, natural), int(state["best_epoch"])
        self.projected = bool(state["projected"])
        self._weights = [state[f"weights/{i}"] for i in range(len(state) - 3)]


class MetricsLog(keras.callbacks.Callback):
    """Appends one JSON object per epoch to a file, and scalars and rate histograms for TensorBoard.

    To Keras' figures of the epoch it adds "learning_rate", that of the epoch's first step. A figure that is no
    finite number becomes null in the file.

    Args:
        run_dir: folder of the run; writes metrics.jsonl and tensorboard/ there.
        stage: name of the stage.
        watchdogs: callbacks before this one, whose `warnings` of the epoch are written down too.
    """

    def __init__(self, run_dir: str | Path, stage: str, watchdogs: Sequence[Watchdog | WatchMemory] = ()):
        super().__init__()
        self.path = Path(run_dir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self.watchdogs = watchdogs
        self.writer = tf.summary.create_file_writer(str(Path(run_dir) / "tensorboard" / stage))
        self._lines = b""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()
        # Now, since at the end of the epoch a schedule stands at the next one.
        self._learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in (logs or {}).items()} | {"learning_rate": self._learning_rate}
        entry = {
            "stage": self.stage,
            "epoch": epoch,
            "seconds": round(time.monotonic() - self._start, 3),
            "logs": {name: value if math.isfinite(value) else None for name, value in logs.items()},
        }
        if self.stage.startswith("prune"):
            entry["rates"] = {path: row["rate"] for path, row in rate_table(self.model.network).items()}
        warnings = [dataclasses.asdict(warning) for watchdog in self.watchdogs for warning in watchdog.warnings]
        if warnings:
            entry["warnings"] = warnings
        try:
            self._write(entry, logs)
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
            raise HarpError(
                f"The figures of an epoch could not be written to {self.path.parent}: {reason}. Make room and start "
                "the run again as before: it goes on from its last checkpoint."
            ) from error

    def _write(self, entry: dict[str, Any], logs: dict[str, float]) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        self._lines += line
        with open(self.path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())  # a checkpoint tells of this epoch as finished
        with self.writer.as_default(step=entry["epoch"]):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
            for path, rate in entry.get("rates", {}).items():
                tf.summary.scalar(f"rate/{path}", rate)
            if entry.get("rates"):
                tf.summary.histogram("rates", list(entry["rates"].values()))
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()

    def state(self) -> dict[str, np.ndarray]:
        """The lines so far, and what is known of the epoch that has begun, for a checkpoint."""
        return {
            "lines": np.frombuffer(self._lines, np.uint8),
            "learning_rate": np.asarray(self._learning_rate),
            "seconds": np.asarray(time.monotonic() - self._start),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`; it does not write the lines."""
        self._lines = state["lines"].tobytes()
        self._learning_rate = float(state["learning_rate"])
        self._start = time.monotonic() - float(state["seconds"])


class EpochLine(keras.callbacks.Callback):
    """Says one plain line per epoch, for logs.

    Args:
        stage: name of the stage.
        epochs: number of its epochs.
        say: receives the line.
    """

    def __init__(self, stage: str, epochs: int, say: Callable[[str], None] = print):
        super().__init__()
        self.stage = stage
        self.epochs = epochs
        self.say = say

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        parts = [f"{self.stage} {epoch + 1}/{self.epochs}", f"loss {logs['loss']:.3f}"]
        for title, prefix in (("train", ""), ("validation", "val_")):
            figures = {kind: logs.get(f"{prefix}{kind}_accuracy") for kind in ("natural", "adversarial")}
            known = [f"{kind} {100 * accuracy:.1f} %" for kind, accuracy in figures.items() if accuracy is not None]
            if known:
                parts.append(" ".join([title, *known]))
        if self.stage.startswith("prune"):
            parts.append(f"gamma {logs['gamma']:.4g} L_hw {logs['hw_loss']:.4f} rate {logs['rate']:.5f}")
        self.say("  ".join([*parts, f"{time.monotonic() - self._start:.0f} s"]))
