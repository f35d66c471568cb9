"""How long a .tflite file takes for one image, beside other files on the same machine at the same time."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harp_tf.deploy.flatbuffer import Source
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.types import HarpError

_WARM_UP = 10
_ROUNDS = 20


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time of one image through one file.

    Attributes:
        name: what the file is called.
        threads: threads of the interpreter.
        median_ms: median over all runs, in milliseconds.
        p10_ms: tenth percentile.
        p90_ms: ninetieth percentile.
        runs: number of timed runs.
    """

    name: str
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
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
        images = {
            name: np.random.default_rng(0).random((1, *classifier.image_shape), np.float32)
            for name, classifier in classifiers.items()
        }
        times: dict[str, list[float]] = {name: [] for name in files}
        for name, classifier in classifiers.items():
            classifier.seconds(images[name], _WARM_UP)
        for _ in range(_ROUNDS):
            for name, classifier in classifiers.items():
                times[name] += classifier.seconds(images[name], runs // _ROUNDS)
        progress(
            f"{count} thread(s): {', '.join(f'{n} {1000 * statistics.median(t):.3f} ms' for n, t in times.items())}"
        )
        for name, seconds in times.items():
            low, middle, high = (float(q) for q in np.percentile(np.array(seconds) * 1000, [10, 50, 90]))
            found.append(Latency(name, count, middle, low, high, len(seconds)))
    return found
