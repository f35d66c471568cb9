"""Reads a run directory, whatever part of it exists already."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harp_tf.reading import parse_json, read_json, read_text
from harp_tf.report import shape
from harp_tf.types import HarpError


@dataclass(frozen=True)
class Run:
    """What a run directory says; a file that is not there yet leaves its part empty.

    Attributes:
        path: the run directory.
        config: config.json.
        stages: by stage ("pretrain", "prune", "finetune"), in the order they ran, one entry of metrics.jsonl
            per epoch, the epochs ascending.
        rates: rates.json.
        results: results.json.
        latency: the rows of latency.json, one per file and number of threads.
    """

    path: Path
    config: dict[str, Any]
    stages: dict[str, list[dict[str, Any]]]
    rates: dict[str, Any]
    results: dict[str, Any]
    latency: list[dict[str, Any]] = field(default_factory=list)


def read_run(run_dir: str | Path) -> Run:
    """Reads the run directory `run_dir`.

    Args:
        run_dir: folder that `harp_tf.train` wrote, finished or not.

    Returns:
        The run.

    Raises:
        HarpError: there is no such folder, or a file of it is not what it should be.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise HarpError(f"Expected a run directory, received {str(path)!r}, which is not a folder.")
    config, rates, results, latency = (
        _read_object(path / f"{name}.json", kind)
        for name, kind in (
            ("config", shape.CONFIG),
            ("rates", shape.RATES),
            ("results", shape.RESULTS),
            ("latency", shape.LATENCY),
        )
    )
    return Run(path, config, _read_stages(path / "metrics.jsonl"), rates, results, latency.get("rows") or [])


def _read_object(path: Path, kind: Any) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise HarpError(f"{path} is not valid JSON ({error}). Delete it and run the stage again.") from error
    if not isinstance(value, dict):
        raise HarpError(f"Expected a JSON object in {path}, received a {type(value).__name__}.")
    shape.check(path, value, kind)
    return value


def _read_stages(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        lines = read_text(path).splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise HarpError(f"{path} cannot be read ({error}). Delete it and run the stages again.") from error
    epochs: dict[str, dict[int, dict[str, Any]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_json(line)
            shape.check(path, entry, shape.EPOCH)
        except ValueError as error:
            if number == len(lines) and not isinstance(error, HarpError):
                break  # A run that was killed while writing leaves half a line at the end.
            raise HarpError(f"Line {number} of {path} is not an epoch's JSON object ({error})") from error
        # An epoch that a resumed run repeats replaces its first try.
        epochs.setdefault(entry["stage"], {})[entry["epoch"]] = {**entry, "logs": entry.get("logs") or {}}
    return {stage: [entries[epoch] for epoch in sorted(entries)] for stage, entries in epochs.items()}
