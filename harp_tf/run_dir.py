"""The directory of a run: what may be in it, what an earlier run left, and the record of the settings."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

from harp_tf.config import RunConfig
from harp_tf.files import write_atomically, write_json
from harp_tf.types import HarpError

_RECORDS = ("config.json", "metrics.jsonl", "report.html", "plots/*.png", "plots/*.svg")
_MADE_BY = {
    "pretrain": ("dense.keras", "tensorboard/pretrain/*"),
    "prune": ("scored.keras", "rates.json", "rates_channel.json", "pruned.keras", "tensorboard/prune*/*"),
    "finetune": ("tensorboard/finetune/*",),  # and pruned.keras anew
    "export": ("model.tflite", "model_sparse.tflite"),
    "evaluate": ("results.json", "evaluation/*/*"),
}
"""Everything a run writes into its directory, and all that --overwrite ever removes."""

TRAINING_STAGES = ("pretrain", "prune", "finetune")
CHANNEL_PART = "prune_channels"
"""The first part of a prune stage that removes channels before weights, in metrics.jsonl."""

_STARTS_FROM = {"prune": "dense.keras", "finetune": "scored.keras"}


class RunDirectory:
    """The directory that the settings of a run name.

    Args:
        config: the settings.
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.path = Path(config.run_dir)

    def trains(self) -> bool:
        """Whether the run trains, rather than only exports or evaluates what is there."""
        return self.config.stages[0] in TRAINING_STAGES

    def read_json(self, name: str) -> dict:
        """The content of a JSON file of the run directory, {} if there is none."""
        path = self.path / name
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise HarpError(f"{path} is damaged ({error}). Remove it and run the stage again.") from error
        if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
            raise HarpError(f"{path} is damaged: it is no JSON object of objects. Remove it and run the stage again.")
        return content

    def threat(self) -> tuple[str, float]:
        """Norm and radius that the run was made for, which --eps of a later evaluation does not change."""
        try:
            flags = json.loads((self.path / "config.json").read_text(encoding="utf-8"))["flags"]
            return str(flags["norm"]), float(flags["eps"])
        except (OSError, ValueError, KeyError, TypeError):  # of no run, or of one that recorded no such flags
            return self.config.norm, self.config.eps

    def source(self) -> Path | None:
        """The file whose model the first stage starts from; None for the model that --model names."""
        first, origin = self.config.stages[0], self.config.init_from
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
        stages, patterns = list(_MADE_BY), [*_RECORDS, *sum(_MADE_BY.values(), ())]
        if self._continues():
            first = stages.index(self.config.stages[0])
            patterns = [name for stage in stages[first:] for name in _MADE_BY[stage] if name != "model.tflite"]
        return sorted(path for pattern in patterns for path in self.path.glob(pattern) if not path.is_dir())

    def check(self) -> None:
        """Refuses a directory in which this run would destroy or contradict something, or that cannot be written."""
        found = self._in_the_way()
        if found and not self.config.overwrite:
            names = [str(path.relative_to(self.path)) for path in found]
            raise HarpError(
                f"The run directory {self.path} holds an earlier run ({', '.join(names[:3])}"
                f"{', ...' if names[3:] else ''}). Choose another --run_dir, or replace them with --overwrite."
            )
        source = self.source()
        if source is not None and source.resolve() in [path.resolve() for path in found]:
            raise HarpError(
                f"--overwrite would remove {source}, which this run starts from. Choose another --run_dir, or leave "
                "out --init_from to go on in this one."
            )
        self.make()

    def make(self) -> None:
        """Makes the directory, and tries to write into it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise HarpError(f"The run directory {self.path} cannot be written: {error.strerror}.") from error

    def prepare(self) -> None:
        """Removes what --overwrite permits to remove, and records flags, versions and machine."""
        if not self.trains():
            self.make()
            return
        self._remove_earlier()
        write_json(
            self.path / "config.json",
            {"flags": self.config.as_dict(), "seed": self.config.seed, **surroundings()},
        )

    def _remove_earlier(self) -> None:
        for path in self._in_the_way():
            path.unlink()
        metrics = self.path / "metrics.jsonl"
        if metrics.exists():
            # Also drops the half line that a killed run may have left at the end.
            kept = TRAINING_STAGES[: TRAINING_STAGES.index(self.config.stages[0])]
            kept += (CHANNEL_PART,) if "prune" in kept else ()
            lines = metrics.read_bytes().splitlines(keepends=True)
            write_atomically(metrics, b"".join(line for line in lines if _stage_of(line) in kept))


def _stage_of(line: bytes) -> str | None:
    """The stage that a line of metrics.jsonl tells of, None if the line is damaged."""
    try:
        return json.loads(line)["stage"]
    except (ValueError, TypeError, KeyError):
        return None


def surroundings() -> dict[str, dict]:
    """What a result depends on besides its settings: versions of the software, and the machine."""
    packages = ("tensorflow", "keras", "ai-edge-litert", "numpy")
    return {
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
