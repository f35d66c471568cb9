"""How long a .tflite file takes for one image, beside other files on the same machine at the same time."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from harp_tf.deploy.flatbuffer import Source, read_bytes
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.types import HarpError

_WARM_UP = 10
_ROUNDS = 20
_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time of one image through one file.

    Attributes:
        name: what the file is called.
        threads: threads of the interpreter.
        median_ms: median over all runs, in milliseconds.
        p10_ms: tenth percentile.
        p90_ms: ninetieth percentile.
        ratio: its time over that of the first file, the median of ratios between runs that followed each other: what
            else the machine does slows both, so that the ratio can be trusted where the times cannot.
        runs: number of timed runs.
    """

    name: str
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    runs: int


def latency(
    files: Mapping[str, Source],
    *,
    threads: Sequence[int] = (1, 2),
    runs: int = 200,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Latency]:
    """Times single images through several files, interleaved, so that a busy machine slows all of them alike.

    Args:
        files: paths or bytes of .tflite classifiers by name.
        threads: numbers of threads to try.
        runs: timed runs of each file and number of threads, at least 20.
        progress: receives a line of text per number of threads.

    Returns:
        One `Latency` per number of threads and file, in that order.

    Raises:
        HarpError: if there is no file, `runs` is too small, or a file cannot be loaded.
    """
    if not files or runs < _ROUNDS:
        raise HarpError(f"Timing needs at least one file and {_ROUNDS} runs, received {len(files)} and {runs}.")
    found = []
    for count in threads:
        classifiers = {name: TFLiteClassifier(source, num_threads=count) for name, source in files.items()}
        for name, classifier in classifiers.items():
            if min(classifier.image_shape) < 1:
                raise HarpError(
                    f"Timing needs images of one size, {name} takes {list(classifier.image_shape)}. Export a model "
                    "that is built with a fixed size: keras.Input((height, width, channels))."
                )
        images = {
            name: np.random.default_rng(0).random((1, *classifier.image_shape), np.float32)
            for name, classifier in classifiers.items()
        }
        for name, classifier in classifiers.items():
            classifier.seconds(images[name], _WARM_UP)
        rounds: dict[str, list[list[float]]] = {name: [] for name in files}
        for _ in range(_ROUNDS):
            for name, classifier in classifiers.items():
                rounds[name].append(classifier.seconds(images[name], runs // _ROUNDS))
        times = {name: np.array(seconds) * 1000 for name, seconds in rounds.items()}
        first = np.median(next(iter(times.values())), axis=1)
        progress(f"{count} thread(s): {', '.join(f'{n} {np.median(t):.3f} ms' for n, t in times.items())}")
        for name, milliseconds in times.items():
            low, middle, high = (float(q) for q in np.percentile(milliseconds, [10, 50, 90]))
            ratio = float(np.median(np.median(milliseconds, axis=1) / first))
            found.append(Latency(name, count, middle, low, high, ratio, milliseconds.size))
    return found


def litert_benchmark(source: Source, threads: int = 1, runs: int = 200) -> float | None:
    """Times a file with the benchmark that comes with ai-edge-litert, in LiteRT's newer runtime, `CompiledModel`.

    Args:
        source: path or bytes of a .tflite file.
        threads: threads of that runtime.
        runs: timed runs.

    Returns:
        Median in milliseconds, which the benchmark rounds to hundredths; None if it cannot run the file or is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, result = Path(folder, "model.tflite"), Path(folder, "result.json")
        file.write_bytes(read_bytes(source))
        command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", "--model", str(file)]
        command += ["--num_threads", str(threads), "--num_runs", str(runs), "--result_json", str(result)]
        try:
            subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
            return float(json.loads(result.read_text(encoding="utf-8"))["latency"]["median_ms"])
        except (OSError, subprocess.SubprocessError, ValueError, KeyError):
            return None
