"""A comparison in its directory: cells are made one after another, kept, counted together and reported."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harp_tf import measure, report
from harp_tf.comparison import measured, order, process
from harp_tf.comparison.budget import gradient_passes
from harp_tf.comparison.cells import Axes, Cell, evaluate_arguments, plan, train_arguments
from harp_tf.comparison.groups import groups
from harp_tf.comparison.process import alone
from harp_tf.config import RunConfig
from harp_tf.files import write_atomically, write_json
from harp_tf.reading import read_json
from harp_tf.run_dir import TRAINING_STAGES, cores, surroundings
from harp_tf.run_record import RunRecord, other_data
from harp_tf.types import HarpError

Execute = Callable[[Sequence[str], Path, int], str]
"""Runs `python ARGUMENTS...`, logs into a file, holds a lock, and returns why it failed; see `process.execute`."""


class _Made(NamedTuple):
    """What came of making a cell: why it failed ("" if it did not), and the seconds it took, in all and to train."""

    message: str
    seconds: float = 0.0
    training: float | None = None


class Comparison:
    """The comparison in a directory; cells that an earlier one has finished there are kept.

    Args:
        config: the settings that all cells share; `run_dir` is the directory of the comparison.
        axes: what varies.
        steps_per_epoch: training batches in an epoch.
        data: what tells the images from others, see `DataSplits.record`.
        say: receives lines of text for the user.
        jobs: how many cells are made at a time; they share the cores of the processor evenly.
        execute: makes a cell; default: in a process of its own.

    Raises:
        HarpError: if settings do not go together, or they or the images differ from those of the cells that the
            directory has.
    """

    def __init__(
        self,
        config: RunConfig,
        axes: Axes,
        steps_per_epoch: int,
        data: dict[str, dict],
        say: Callable[[str], None] = print,
        jobs: int = 1,
        execute: Execute | None = None,
    ):
        measure.check_radii(config)
        self.config, self.say = config, say
        self.directory = Path(config.run_dir)
        self.cells = plan(config, axes)
        self._steps, self._data, self._jobs = steps_per_epoch, data, jobs
        # Processes that each take all cores hinder one another.
        threads = None if jobs == 1 else max(1, cores() // jobs)
        self._execute = execute or functools.partial(process.execute, threads=threads)
        self._entries: dict[str, dict[str, Any]] = {}
        if (self.directory / "config.json").exists():
            raise HarpError(f"{self.directory} holds a single run. Choose another --run_dir for the comparison.")
        self._refuse_changes(_read(self.directory / "comparison.json"))
        self._speed: list[tuple[int, float]] = []  # gradient passes and seconds of the cells trained so far

    def run(self) -> list[str]:
        """Makes the cells that are missing, and writes comparison.json, plots/ and comparison.html.

        Returns:
            Names of the cells that failed.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with alone(self.directory, self.say) as lock:
            earlier = _read(self.directory / "comparison.json")  # now that nobody else writes it
            self._refuse_changes(earlier)
            self._refuse_cells()
            known = [entry for entry in earlier.get("cells", []) if self._is_there(entry["name"])]
            self._entries = {entry["name"]: entry for entry in known}
            missing = [cell for cell in self.cells if not self._note_finished(cell)]
            self._write()
            self.say(f"{len(self.cells)} cells, {len(self.cells) - len(missing)} of them finished earlier.")
            failed: list[str] = []
            left = list(missing)
            # Closed before the lock is given back, whatever happens.
            making = order.made(missing, self._jobs, lambda c: self._make(c, lock, failed), process.interrupt)
            with contextlib.closing(making) as cells:
                for cell, made in cells:
                    left.remove(cell)
                    message = made.message
                    if not message and not self._note_finished(cell):
                        message = "it ended without the figures that it was to measure"
                    if message:
                        failed.append(cell.name)
                        self._note(cell, "failed", message=message)
                    elif made.training is not None:
                        self._speed.append((self._work(cell), made.training))
                    self._write()
                    self._say_progress(f"[{len(missing) - len(left)}/{len(missing)}]", cell, made, message, left)
        self._finish(failed)
        return failed

    def _make(self, cell: Cell, lock: int, failed: Sequence[str]) -> _Made:
        lost = [name for name in failed if name in cell.after]
        if lost:
            return _Made(f"it starts from {lost[0]}, which failed")
        try:
            return self._made(cell, lock)
        except (HarpError, OSError) as error:  # a damaged or unwritable file of this cell is no matter of the others
            return _Made(str(error))

    def _made(self, cell: Cell, lock: int) -> _Made:
        cell.directory.mkdir(parents=True, exist_ok=True)
        if cell.model is not None:
            write_atomically(cell.directory / "dense.keras", cell.model.read_bytes())
            # A run that does not train writes none, and without it nobody could evaluate the cell again.
            RunRecord.of(cell.config, {}, self._data).write(surroundings())
        message, training, begin = "", None, time.monotonic()
        if not measured.is_trained(cell):
            message = self._execute(train_arguments(measured.begun_with(cell)), cell.directory / "log.txt", lock)
            training = time.monotonic() - begin
        if not message and not measured.is_measured(cell):  # with the attacks that are asked for now
            message = self._execute(evaluate_arguments(cell), cell.directory / "log.txt", lock)
        if not message and measured.is_trained(cell):
            measured.figures(cell, self._steps)  # says which file is damaged
        return _Made(message, time.monotonic() - begin, training)

    # The record ------------------------------------------------------------------------------------------------------

    def _is_there(self, name: str) -> bool:
        """Whether a cell belongs to this comparison: of those asked for, or left by an earlier call."""
        return name in {cell.name for cell in self.cells} or (self.directory / "cells" / name).is_dir()

    def _note_finished(self, cell: Cell) -> bool:
        self._note(cell, "waiting")
        finished = "figures" in self._entries[cell.name] and measured.is_measured(cell)
        if finished:
            self._entries[cell.name]["status"] = "finished"
        return finished

    def _note(self, cell: Cell, status: str, **more) -> None:
        self._entries[cell.name] = {
            "name": cell.name,
            "method": cell.method,
            "sparsity": cell.sparsity,
            "loss": cell.loss,
            "seed": cell.seed,
            "command": cell.command(),
            "status": status,
            **self._found(cell),
            **more,
        }

    def _found(self, cell: Cell) -> dict[str, Any]:
        """What the cell was measured with so far, whatever is asked for now."""
        try:
            return {"figures": measured.figures(cell, self._steps)} if measured.is_trained(cell) else {}
        except HarpError:  # damaged; said where the cell is to be made
            return {}

    def _write(self) -> None:
        cells = list(self._entries.values())
        write_json(
            self.directory / "comparison.json",
            {
                "flags": self.config.as_dict(),
                "data": self._data,
                **surroundings(),
                "steps_per_epoch": self._steps,
                "groups": groups(cells),
                "cells": cells,
            },
        )

    def _refuse_changes(self, earlier: dict) -> None:
        changed = measured.changed_settings(earlier.get("flags", {}), self.config)
        if changed:
            differences = ", ".join(changed.values())
            raise HarpError(
                f"The cells in {self.directory} were trained with other settings ({differences}). Leave them as they "
                "were to add cells, or choose another --run_dir."
            )
        if other := other_data(earlier.get("data", {}), self._data):
            raise HarpError(
                f"The cells in {self.directory} were trained with other images than --dataset={self.config.dataset} "
                f"has now ({', '.join(other)}). Put those back to add cells, or choose another --run_dir."
            )

    def _refuse_cells(self) -> None:
        """The record may be gone, and a recipe or the images others than when a cell was trained: its own tells."""
        for cell in self.cells:
            changed = measured.trained_otherwise(cell, self._data)
            if changed:
                raise HarpError(
                    f"{cell.directory} was trained with other settings ({', '.join(changed)}). Remove that folder to "
                    "train it anew, or choose another --run_dir."
                )

    # For the user ----------------------------------------------------------------------------------------------------

    def _work(self, cell: Cell) -> int:
        """Gradient passes that the cell trains, as a measure of the time it takes; at least those of one epoch."""
        stages = [stage for stage in cell.config.stages if stage in TRAINING_STAGES]
        epochs = sum(cell.config.stage_epochs[stage] for stage in stages)
        return gradient_passes(cell.config, max(epochs, 1), self._steps)

    def _say_progress(self, place: str, cell: Cell, made: _Made, message: str, left: Sequence[Cell]) -> None:
        passes, seconds = (sum(column) for column in zip(*self._speed)) if self._speed else (0, 0.0)
        work = sum(self._work(other) for other in left) / self._jobs
        figures = f"{self._figures_line(cell)} in {duration(made.seconds)}" if not message else ""
        outcome = figures or f"FAILED: {message} (see {cell.directory / 'log.txt'})"
        time_left = f"; about {duration(work * seconds / passes if passes else 0.0)} left" if left else ""
        self.say(f"{place} {cell.name}: {outcome}{time_left}")

    def _figures_line(self, cell: Cell) -> str:
        figures = self._entries[cell.name]["figures"]
        shares = {"natural": figures["natural"]["accuracy"]}
        shares |= {report.labels.attack(name): found["accuracy"] for name, found in figures["robust"].items()}
        return ", ".join(f"{name} {report.labels.percent(share)} %" for name, share in shares.items())

    def _finish(self, failed: Sequence[str]) -> None:
        self.say("\n" + report.comparison_table(self.directory))
        self.say(f"\nReport: {report.write_comparison(self.directory)}")
        for name in failed:
            self.say(f"FAILED {name}: {self._entries[name]['message']}")


def duration(seconds: float) -> str:
    """Writes a time for people: 42 s, 3 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _read(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        content = read_json(path)
        if {"flags", "cells"} <= set(content) and all(isinstance(cell["name"], str) for cell in content["cells"]):
            return content
        reason = "it is not the record of a comparison"
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = repr(error)
    raise HarpError(f"{path} is damaged: {reason}. Remove it; the cells beside it are found again.")
