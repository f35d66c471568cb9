"""What goes wrong in a training of days without anybody looking: found early, said once, and on record.

The rules that look at figures are pure functions of the epochs so far as metrics.jsonl has them, so a resumed run
judges as an uninterrupted one does.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from harp_tf.layers import rate_table
from harp_tf.types import HarpError

Entry = Mapping[str, Any]
"""An epoch of a stage: {"epoch": from 0, "logs": figures by name}, a line of metrics.jsonl."""

_COLLAPSE, _NOISE = 0.2, 0.05
_ON_TARGET = 0.01
_HANDFUL = 10


@dataclasses.dataclass(frozen=True)
class Finding:
    """A warning.

    Attributes:
        watchdog: name of the rule.
        subject: what it is about, where a rule can warn of several things; else "".
        text: what happened and what to do.
    """

    watchdog: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"WARNING ({self.watchdog}) {self.text}"


def collapse(entries: Sequence[Entry]) -> list[Finding]:
    """Catastrophic overfitting: validation forgets the attack while training seems to get better at it.

    That is: adversarial accuracy on the validation split has lost more than 20 points, or half, since its best epoch,
    while the natural accuracy there has not fallen with it, and on the training images it is higher than it was then.

    Reference:
        Wong et al., Fast is better than free: Revisiting adversarial training, ICLR 2020.
    """
    known = _known(entries, "val_adversarial_accuracy", "val_natural_accuracy", "adversarial_accuracy")
    if not known:
        return []
    best_epoch, (before, natural_before, trained_before) = max(known, key=lambda found: found[1][0])
    epoch, (after, natural, trained) = known[-1]
    if trained <= trained_before or after >= max(before - _COLLAPSE, before / 2):
        return []
    if natural < natural_before - _NOISE:  # the network suffers as a whole, as it does while weights go
        return []
    return [
        Finding(
            "collapse",
            "",
            f"Robust accuracy collapsed: on the validation split it fell from {100 * before:.1f} % in epoch "
            f"{best_epoch + 1} to {100 * after:.1f} % in epoch {epoch + 1}, while on the training images it rose from "
            f"{100 * trained_before:.1f} to {100 * trained:.1f} %. The best epoch is kept. The network has learned to "
            "fool the training attack: raise --attack_steps, or lower the learning rate.",
        )
    ]


def missed_target(entries: Sequence[Entry], epochs: int) -> list[Finding]:
    """Learned rates that at their present speed will not reach the target before the stage ends.

    Judged from the middle of the stage on; before, rates may still rise while scores settle.

    Args:
        entries: epochs of a stage that learns rates.
        epochs: how many it has.
    """
    known = _known(entries, "hw_loss", "gamma")
    if len(known) < 2:
        return []
    (_, (before, _)), (epoch, (now, _)) = known[-2:]
    left, speed = epochs - epoch - 1, before - now
    if 2 * (epoch + 1) < epochs or not left or now <= max(_ON_TARGET, left * speed):
        return []
    factor = min(max(now / left / speed, 2.0), 10.0) if speed > 0 else 10.0
    first, (_, gamma) = known[0]
    return [
        Finding(
            "missed_target",
            "",
            f"The rates exceed the target by {100 * now:.1f} % (L_hw {now:.4f}) after epoch {epoch + 1} of {epochs}, "
            f"and by {100 * before:.1f} % the epoch before: they will not reach it in this stage, and will be "
            "projected onto it at the end, which costs accuracy. Start the stage again with a larger --gamma, "
            f"{factor * gamma / (first + 1):.1g} for instance, or with more --prune_epochs.",
        )
    ]


def dying_layers(table: Mapping[str, Mapping[str, float | int]]) -> list[Finding]:
    """Layers of which hardly anything is left.

    Args:
        table: as `harp_tf.layers.rate_table` returns it.
    """
    found = []
    for path, row in table.items():
        if "channels" in row:
            thin, left = row["kept_channels"] == 1 < row["channels"], f"1 of {row['channels']:,} channels"
        else:
            thin = row["kept"] < min(_HANDFUL, row["weights"])
            left = f"{row['kept']:,} of {row['weights']:,} weights"
        if thin:
            text = (
                f"{path} keeps {left}: everything the network knows passes through them. If accuracy suffers, give "
                f"the layer a floor with --rate_bounds={path}=0.1:, or leave it unpruned with --skip."
            )
            found.append(Finding("dying_layer", path, text))
    return found


def _known(entries: Sequence[Entry], *names: str) -> list[tuple[int, list[float]]]:
    """Number and figures of the epochs that have all of these."""
    found = [(entry["epoch"], [entry["logs"].get(name) for name in names]) for entry in entries]
    return [(epoch, figures) for epoch, figures in found if None not in figures]


class Watchdog(keras.callbacks.Callback):
    """Warns of a collapse of robustness, of rates that miss their target, and of dying layers, of each once.

    Goes before `MetricsLog`, which writes the epoch's warnings down and so tells a resumed run what was said.

    Attributes:
        warnings: what was found new in the latest epoch.

    Args:
        run_dir: folder of the run; metrics.jsonl there tells of the epochs before an interruption.
        stage: name of the stage.
        epochs: number of its epochs.
        say: receives the warnings.
    """

    def __init__(self, run_dir: str | Path, stage: str, epochs: int, say: Callable[[str], None] = print):
        super().__init__()
        self.warnings: list[Finding] = []
        self._path = Path(run_dir) / "metrics.jsonl"
        self._stage, self._epochs, self._say = stage, epochs, say
        self._entries: list[Entry] = []
        self._said: set[tuple[str, str]] = set()

    def on_train_begin(self, logs=None):
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        entries = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a killed run may have left half of one
                entries.append(json.loads(line))
        self._entries = [entry for entry in entries if entry["stage"] == self._stage]
        self._said = {(w["watchdog"], w["subject"]) for e in self._entries for w in e.get("warnings", ())}

    def on_epoch_end(self, epoch, logs=None):
        self._entries.append({"epoch": epoch, "logs": dict(logs or {})})
        found = collapse(self._entries)
        if self.model.learns_rates:
            found += missed_target(self._entries, self._epochs) + dying_layers(rate_table(self.model.network))
        self.warnings = [w for w in found if (w.watchdog, w.subject) not in self._said]
        for warning in self.warnings:
            self._said.add((warning.watchdog, warning.subject))
            self._say(str(warning))


class StopOnNaN(keras.callbacks.Callback):
    """Ends the training with a clear error when the loss or a weight is no finite number.

    It looks at the weights every few steps, and at the losses too at the end of every epoch: their means over the
    epoch, once infinite or NaN, stay so. Goes first among the callbacks: what one after it saves was seen.

    Args:
        last_good: returns the path of the latest checkpoint, or None.
        every: training steps between two looks.
    """

    def __init__(self, last_good: Callable[[], str | Path | None] = lambda: None, *, every: int = 50):
        super().__init__()
        self.last_good, self.every = last_good, every

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._batches, self._sound_until = epoch, 0, self._steps()

    def on_train_batch_begin(self, batch, logs=None):
        # Not at its end: a callback that is called there has Keras fetch the figures of every step from the device.
        if self._batches and self._batches % self.every == 0:
            self.check({})
        self._batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.check(logs)

    def check(self, logs: Mapping[str, Any]) -> None:
        """Looks now.

        Args:
            logs: the figures of the epoch so far.

        Raises:
            HarpError: if something is no finite number.
        """
        losses = {name: _number(logs[name]) for name in ("loss", "val_loss") if name in logs}
        wrong = [f"{name.replace('val_', 'validation ')} became {value}" for name, value in losses.items()]
        wrong = [text for text, value in zip(wrong, losses.values()) if not math.isfinite(value)]
        if not wrong:
            wrong = [f"weights of {path} became infinite or NaN" for path in not_finite(self.model)[:1]]
        if not wrong:
            self._sound_until = self._steps()
            return
        checkpoint = self.last_good()
        raise HarpError(
            f"The {wrong[0]} in epoch {self._epoch + 1}, between steps {self._sound_until} and {self._steps()}. Lower "
            "the learning rate, or use a longer warm-up."
            + (f" The last checkpoint from before is {checkpoint}." if checkpoint else "")
        )

    def _steps(self) -> int:
        return int(keras.ops.convert_to_numpy(self.model.steps))


def not_finite(model: keras.Model) -> list[str]:
    """Paths of the variables of a model that hold a number that is infinite or NaN."""
    # Where the variables are: they are looked at every few steps, and one bit of each is all that has to come back.
    return [v.path for v in model.variables if not bool(keras.ops.all(keras.ops.isfinite(v)))]


def _number(value: Any) -> float:
    return float(np.ravel(keras.ops.convert_to_numpy(value))[0])  # multi-worker training reports them as [1]
