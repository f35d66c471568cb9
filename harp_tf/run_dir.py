"""The directory of a run: what may be in it, what an earlier run left, and the record of the settings."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from harp_tf.config import RunConfig
from harp_tf.files import remove_leftovers, write_atomically
from harp_tf.reading import read_json
from harp_tf.report import shape
from harp_tf.run_record import RunRecord, other_data
from harp_tf.types import HarpError

_RECORDS = ("config.json", "metrics.jsonl", "report.html", "plots/*.png", "plots/*.svg")
_MADE_BY = {
    "pretrain": ("dense.keras", "tensorboard/pretrain/*"),
    "prune": ("scored.keras", "rates.json", "rates_channel.json", "pruned.keras", "tensorboard/prune*/*"),
    "finetune": ("tensorboard/finetune/*",),  # and pruned.keras anew
    "export": ("model.tflite", "model_sparse.tflite"),
    "evaluate": ("results.json", "evaluation/*/*"),
}
"""Everything but checkpoints that a run writes into its directory, and all that --restart ever removes."""

TRAINING_STAGES = ("pretrain", "prune", "finetune")
CHANNEL_PART = "prune_channels"
"""The first part of a prune stage that removes channels before weights, in metrics.jsonl."""

TFLITE_FILES = {"dense": "model.tflite", "pruned": "model_sparse.tflite"}
"""The file for the phone of each model."""

TFLITE_KEYS = {"dense": "tflite", "pruned": "tflite_sparse"}
"""What results.json calls these files."""

_TRAININGS = {"pretrain": ("pretrain",), "prune": (CHANNEL_PART, "prune"), "finetune": ("finetune",)}
"""The trainings of each stage, in the order in which they may come."""

_CUTS = ("dataset", "data_dir", "validation_fraction", "train_limit", "test_limit", "seed", "data_seed")
"""Settings that say which images a run gets."""

_STARTS_FROM = {"prune": "dense.keras", "finetune": "scored.keras"}


class RunDirectory:
    """The directory that the settings of a run name.

    Args:
        config: the settings.
        say: receives lines of text for the user.
    """

    def __init__(self, config: RunConfig, say: Callable[[str], None] = print):
        self.config, self.say = config, say
        self.path = Path(config.run_dir)

    def trains(self) -> bool:
        """Whether the run trains, rather than only exports or evaluates what is there."""
        return self.config.stages[0] in TRAINING_STAGES

    def warn_of_unfinished(self) -> None:
        """Says so if a training of the run that is here was interrupted: its model is not what it is to become."""
        record = RunRecord.read(self.path)
        left = [] if record is None else [s for s in record.flags["stages"] if s not in record.finished]
        if set(left) & set(TRAINING_STAGES):
            self.say(f"WARNING: the run in {self.path} has not finished {', '.join(left)}. Its model may change yet.")

    def warn_of_other_data(self, data: dict[str, dict]) -> None:
        """Says so if the images have changed since the run that is here was made: it may have learned what tests it.

        Args:
            data: what tells the images from others, see `DataSplits.record`.
        """
        record = RunRecord.read(self.path)
        if record is None or any(record.flags.get(name) != getattr(self.config, name) for name in _CUTS):
            return  # others were asked for
        if other := other_data(record.data, data):
            self.say(
                f"WARNING: the images of --dataset={self.config.dataset} ({', '.join(other)}) are not those that the "
                f"run in {self.path} was made with. Test images may be among those that it learned from, and figures "
                "of before and after are not of the same images."
            )

    def warn_of_other_cut(self, data: dict[str, dict]) -> None:
        """Says so if the run that --init_from names had other images: it may have learned what chooses epochs here.

        Args:
            data: what tells the images from others, see `DataSplits.record`.
        """
        origin = None if self.config.init_from is None else RunRecord.read(Path(self.config.init_from))
        if origin is None or origin.flags.get("dataset") != self.config.dataset:
            return
        if other := other_data(origin.data, data):
            seed = origin.flags.get("data_seed")
            self.say(
                f"WARNING: the run in {origin.folder} had other images ({', '.join(other)}). Its training images may "
                "be among those that choose the best epoch here, or test it. For the same cut give the same limits and "
                f"--data_seed={origin.flags.get('seed') if seed is None else seed}."
            )

    def read_json(self, name: str) -> dict:
        """The content of a JSON file of the run directory, {} if there is none."""
        path = self.path / name
        if not path.exists():
            return {}
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            raise HarpError(f"{path} is damaged ({error}). Remove it and run the stage again.") from error
        if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
            raise HarpError(f"{path} is damaged: it is no JSON object of objects. Remove it and run the stage again.")
        if name == "results.json":
            shape.check(path, content, shape.RESULTS)
        return content

    def threat(self) -> tuple[str, float]:
        """Norm and radius that the run was made for, which --eps of a later evaluation does not change."""
        try:
            flags = read_json(self.path / "config.json")["flags"]
            return str(flags["norm"]), float(flags["eps"])
        except (OSError, ValueError, KeyError, TypeError):  # of no run, or of one that recorded no such flags
            return self.config.norm, self.config.eps

    def source(self, stage: str | None = None) -> Path | None:
        """The file whose model a stage, usually the first, starts from; None for the model that --model names."""
        first, origin = self.config.stages[0], self.config.init_from
        if stage not in (None, first):
            return self.path / _STARTS_FROM[stage]
        if origin is not None:
            return Path(origin) / _STARTS_FROM.get(first, "dense.keras") if os.path.isdir(origin) else Path(origin)
        if first == "pretrain":
            return None
        made = self.path / _STARTS_FROM[first]
        trained_elsewhere = first == "prune" and self.config.model.endswith(".keras") and not made.exists()
        return None if trained_elsewhere else made

    def _continues(self) -> bool:
        """Whether the first stage goes on with what the run directory holds."""
        return self.config.init_from is None and self.source() is not None

    def _in_the_way(self) -> list[Path]:
        """Files of an earlier run that this one would not build upon, but replace or contradict."""
        stages, patterns = self._begun_anew(), [*_RECORDS]
        if self._continues():
            patterns = []
        patterns += [name for stage in stages for name in _MADE_BY[stage]]
        patterns += [f"checkpoints/{training}/*/*" for stage in stages for training in _TRAININGS.get(stage, ())]
        found = {path for pattern in patterns for path in self.path.glob(pattern) if not path.is_dir()}
        return sorted(found - {self.path / "model.tflite"} if self._continues() else found)

    def _begun_anew(self) -> list[str]:
        """The stages whose files a run that begins replaces: all, or those from its first on."""
        stages = list(_MADE_BY)
        return stages[stages.index(self.config.stages[0]) :] if self._continues() else stages

    def check(self) -> list[str]:
        """Refuses a directory in which this run would destroy or contradict something, or that cannot be written.

        Returns:
            The stages that are on record as finished.
        """
        resumed = self._resumed()
        if resumed is None:
            self._check_beginning()
        with self.locked():  # not for long: to say early that it is not possible
            return [] if resumed is None else list(resumed.finished)

    def _resumed(self) -> RunRecord | None:
        """The record of the run that this one goes on with, None if it begins."""
        record = None if self.config.restart else RunRecord.read(self.path)
        return record if record is not None and not record.changes(self.config) else None

    def _check_beginning(self) -> None:
        found, record = self._in_the_way(), RunRecord.read(self.path)
        unfinished = record is not None and not record.is_finished()
        if (found or unfinished) and not self.config.restart:
            names = [str(path.relative_to(self.path)) for path in found]
            what = ", ".join(names[:3]) + (", ..." if names[3:] else "")
            kind, advice = f"an earlier run ({what})", "Choose another --run_dir, or begin anew with --restart."
            changes = [] if record is None else record.changes(self.config)
            if changes:
                kind = f"an {'unfinished' if unfinished else 'earlier'} run of other settings: {'; '.join(changes)}"
                advice = "Go on with the settings that it was begun with, c" + advice.removeprefix("C")
            raise HarpError(f"The run directory {self.path} holds {kind}. {advice}")
        source = self.source()
        if source is not None and source.resolve() in [path.resolve() for path in found]:
            raise HarpError(
                f"--restart would remove {source}, which this run starts from. Choose another --run_dir, or leave "
                "out --init_from to go on in this one."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and keeps other processes from writing there, as long as this one lives at most.

        Raises:
            HarpError: if it cannot be written, or another process has locked it.
        """
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab")
            while not self._locks(file, path):
                file.close()
                file = open(path, "ab")
        except OSError as error:
            raise HarpError(f"The run directory {self.path} cannot be written: {error.strerror}.") from error
        with file:
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _locks(self, file: BinaryIO, path: Path) -> bool:
        """Locks an open file; False if the file of this name is another one by now."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise HarpError(
                f"Another process is writing into the run directory {self.path}. Wait until it has ended, or choose "
                "another --run_dir."
            ) from error
        except OSError as error:
            self.say(f"{self.path} cannot be locked ({error.strerror}): see to it that only one process uses it.")
            return True
        with contextlib.suppress(FileNotFoundError):  # removed by the process that had locked it
            return os.path.samestat(os.fstat(file.fileno()), path.stat())
        return False

    def prepare(self, data: dict[str, dict]) -> list[str]:
        """Makes the locked directory ready, and records flags, data, versions and machine.

        A run that begins removes what --restart permits to remove. One that goes on removes what belongs to stages
        that must be done again, and what a killed process has left half written.

        Args:
            data: what tells the images from others, see `DataSplits.record`.

        Returns:
            The stages that are finished already.

        Raises:
            HarpError: if the run was begun with other images.
        """
        if not self.trains():
            return []
        for folder in (self.path, self.path / "plots", *self.path.glob("evaluation/*")):
            remove_leftovers(folder)
        resumed = self._resumed()
        if resumed is None:
            self._check_beginning()
            anew, in_the_way = self._begun_anew(), self._in_the_way()
            earlier = RunRecord.read(self.path) if self._continues() else None
            finished = {} if earlier is None else {s: files for s, files in earlier.finished.items() if s not in anew}
            # The record first: who is killed here must not find it beside the half of what it tells of.
            for path in [self.path / "config.json", *in_the_way]:
                path.unlink(missing_ok=True)
            self._forget(anew)
        else:
            self._refuse_other_data(resumed, data)
            self._warn_of_other_surroundings()
            finished = resumed.without_damage(self.config.stages, self.say).finished
            if finished != resumed.finished:
                stages = list(self.config.stages)
                self._forget(stages[next(i for i, stage in enumerate(stages) if stage not in finished) :])
            self._remove_checkpoints(list(finished))  # of a stage that was killed when it had just ended
        RunRecord.of(self.config, finished, data).write(surroundings())
        return [stage for stage in self.config.stages if stage in finished]

    def _refuse_other_data(self, resumed: RunRecord, data: dict[str, dict]) -> None:
        if resumed.is_finished() or not (other := other_data(resumed.data, data)):
            return
        raise HarpError(
            f"The run in {self.path} was begun with other images than --dataset={self.config.dataset} has now "
            f"({', '.join(other)}). Put those back to go on with it, choose another --run_dir, or begin anew with "
            "--restart."
        )

    def _warn_of_other_surroundings(self) -> None:
        """Says what is not as it was when an unfinished run began, for then its last bits are not either."""
        before, now = read_json(self.path / "config.json"), surroundings()
        differences = []
        for group in ("versions", "machine", "environment"):
            old = before.get(group)
            old, new = old if isinstance(old, dict) else {}, now[group]
            names = [name for name in {**old, **new} if name != "system" and old.get(name) != new.get(name)]
            differences += [f"{n} was {old.get(n, 'not set')} and is {new.get(n, 'not set')}" for n in names]
        if differences:
            found = "; ".join(differences)
            self.say(
                f"WARNING: this run began elsewhere ({found}). It goes on, and may end with other last bits than if it "
                "had not been interrupted."
            )

    def finish(self, stage: str) -> None:
        """Records that a stage has ended, with the checksums of what it has left, and removes its checkpoints."""
        record = RunRecord.read(self.path)
        if record is not None and (self.trains() or stage in record.finished):
            record.with_stage(stage).write(surroundings())
        self._remove_checkpoints([stage])

    def checkpoints(self, training: str) -> Path:
        """The folder for the checkpoints of a training: of a stage, or `CHANNEL_PART`."""
        return self.path / "checkpoints" / training

    def restore_metrics(self, training: str, lines: bytes = b"") -> None:
        """Makes metrics.jsonl what it was when a training had come so far.

        Args:
            training: a stage, or `CHANNEL_PART`.
            lines: those of the training; those of earlier ones stay, all others go.
        """
        metrics = self.path / "metrics.jsonl"
        before = metrics.read_bytes() if metrics.exists() else b""
        order = [name for names in _TRAININGS.values() for name in names]
        earlier = order[: order.index(training)]
        kept = [line for line in before.splitlines(keepends=True) if _training_of(line) in earlier]
        if b"".join([*kept, lines]) != before:
            write_atomically(metrics, b"".join([*kept, lines]))

    def _forget(self, stages: Sequence[str]) -> None:
        """Removes checkpoints and records of stages that begin anew."""
        self._remove_checkpoints(stages)
        for stage in stages[:1]:
            if stage in _TRAININGS:
                self.restore_metrics(_TRAININGS[stage][0])

    def _remove_checkpoints(self, stages: Sequence[str]) -> None:
        for stage in stages:
            for training in _TRAININGS.get(stage, ()):
                shutil.rmtree(self.checkpoints(training), ignore_errors=True)
        with contextlib.suppress(OSError):  # not there, or of other trainings too
            (self.path / "checkpoints").rmdir()


def _training_of(line: bytes) -> str | None:
    """The training that a line of metrics.jsonl tells of, None if the line is damaged."""
    try:
        return json.loads(line)["stage"]
    except (ValueError, TypeError, KeyError):
        return None


_ROUNDING = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS")
"""Variables of the environment on which the last bits of TensorFlow's sums depend."""


def surroundings() -> dict[str, dict]:
    """What a result depends on besides its settings: versions of the software, the machine, and the environment."""
    packages = ("tensorflow", "keras", "ai-edge-litert", "numpy", "tf_keras", "tensorflow-model-optimization")
    return {
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "environment": {name: os.environ[name] for name in _ROUNDING if name in os.environ},
    }


def cores() -> int:
    """How many threads this process is to compute with: what TensorFlow was told, or the cores that it may use."""
    told = os.environ.get(_ROUNDING[0], "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
