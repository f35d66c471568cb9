"""config.json of a run directory: the settings, what they depend on, and which stages are finished."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from harp_tf.config import RunConfig
from harp_tf.files import checksum, write_json
from harp_tf.reading import read_json

_FILE = "config.json"

_FILES_OF = {
    "pretrain": ("dense.keras",),
    "prune": ("dense.keras", "scored.keras", "rates.json", "rates_channel.json", "pruned.keras"),
    "finetune": ("pruned.keras",),
    "export": ("model.tflite", "model_sparse.tflite"),
    "evaluate": ("results.json",),
}
"""What the stages leave that others build upon or that is the result, as far as it is there."""

Finished = dict[str, dict[str, str]]
"""By stage: the SHA-256 of its files by name."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run directory says of its run.

    Attributes:
        folder: the run directory.
        flags: the settings, as `RunConfig.as_dict` gives them.
        finished: the finished stages.
        data: what tells the images of the run from others, see `DataSplits.record`; {} in records of earlier versions.
    """

    folder: Path
    flags: dict[str, Any]
    finished: Finished
    data: dict[str, dict] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record of a folder; None if there is none, or one that cannot be gone on with."""
        try:
            content = read_json(folder / _FILE)
            flags, finished = content["flags"], content["finished"]
            sound = isinstance(flags["stages"], list) and all(isinstance(files, dict) for files in finished.values())
            return cls(folder, flags, finished, dict(content.get("data", {}))) if sound else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @classmethod
    def of(cls, config: RunConfig, finished: Finished, data: dict[str, dict]) -> Self:
        """The record of a run that begins."""
        return cls(Path(config.run_dir), config.as_dict(), finished, data)

    def write(self, surroundings: Mapping[str, Any]) -> None:
        """Writes config.json, with what else the results depend on."""
        settings = {"flags": self.flags, "seed": self.flags.get("seed"), "data": self.data}
        write_json(self.folder / _FILE, {**settings, **surroundings, "finished": self.finished})

    def changes(self, config: RunConfig) -> list[str]:
        """What another run would do otherwise: its settings that decide results and are not those of this run."""
        now = config.as_dict()
        fields = [field for field in dataclasses.fields(RunConfig) if field.metadata["decides"]]
        before = {field.name: self.flags.get(field.name, field.default) for field in fields}
        before = {name: list(value) if isinstance(value, tuple) else value for name, value in before.items()}
        return [
            f"--{name} was {_written(value)} and is {_written(now[name])}"
            for name, value in before.items()
            if value != now[name]
        ]

    def is_finished(self) -> bool:
        """Whether nothing is left to do of the run."""
        return set(self.flags["stages"]) <= set(self.finished)

    def with_stage(self, stage: str) -> Self:
        """The record when a stage has ended: with the checksums of its files."""
        found = {name: _checksum(self.folder / name) for name in _FILES_OF[stage]}
        # Made by an earlier stage and left as it was: its matter.
        known = {item for other, files in self.finished.items() if other != stage for item in files.items()}
        files = {name: checksum for name, checksum in found.items() if checksum and (name, checksum) not in known}
        return dataclasses.replace(self, finished={**self.finished, stage: files})

    def without_damage(self, stages: Sequence[str], say: Callable[[str], None]) -> Self:
        """The record of the stages that need not be done again.

        Args:
            stages: those of the run, in their order.
            say: receives a line if files of a finished stage are not what the stage has left.
        """
        done = [stage for stage in stages if stage in self.finished]
        begun = next((stage for stage in stages if stage not in self.finished), None)
        replaced = _FILES_OF[begun] if begun else ()  # an unfinished stage may have written its files already
        for number, stage in enumerate(done):
            # A file of several stages is what the last of them has made of it.
            later = [name for other in done[number + 1 :] for name in self.finished[other]]
            for name, recorded in self.finished[stage].items():
                if name not in later and name not in replaced and _checksum(self.folder / name) != recorded:
                    say(f"{self.folder / name} is damaged or gone: the stage {stage} and what follows begin anew.")
                    first = stages.index(stage)
                    kept = {s: files for s, files in self.finished.items() if s not in stages[first:]}
                    return dataclasses.replace(self, finished=kept)
        return self


def other_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The splits whose images are others than they were, as far as it is known which those were.

    Args:
        before: as `DataSplits.record` gave it, {} if nobody asked.
        now: as it gives it now.
    """
    return [split for split, images in now.items() if before.get(split, images) != images]


def _checksum(path: Path) -> str | None:
    try:
        return checksum(path)
    except OSError:
        return None


def _written(value: Any) -> str:
    """A setting as a flag says it."""
    return ",".join(value) or "empty" if isinstance(value, list) else str(value)
