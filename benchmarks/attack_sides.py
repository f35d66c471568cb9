"""The two sides that benchmarks.attack_parity and benchmarks.attack_cost compare, on the same Keras file and images.

Ours runs in this process; the official code (its package pyautoattack) in an environment of its own, see
attack_peer.py. Both are held to one thread.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from harp_tf import attacks, data, models
from harp_tf.run_dir import surroundings

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def parser_of(doc: str | None, name: str, data: str, first: int, samples: int) -> argparse.ArgumentParser:
    """The flags that every program with both sides has; the given values are the defaults of its own."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--data", default=data)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--first", type=int, default=first)
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--name", default=name)
    return parser


def one_thread() -> None:
    """Holds TensorFlow to one thread; before its first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def head(program: str) -> dict:
    """What every result begins with: the command without its folders, how busy the machine was, and what it is."""
    words = [re.sub("=.*/", "=", word) if "idx:" not in word else word for word in sys.argv[1:]]
    return {
        "command": " ".join([f"python -m benchmarks.{program}", *words]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
    }


def test_images(name: str, classes: int, first: int, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and places of the first test images of the classes 0 to classes - 1, from a place on."""
    images, labels = data.load(name, seed=0).test.arrays()
    places = np.flatnonzero(labels < classes)
    places = places[places >= first][:samples]
    return images[places], labels[places].astype(np.int32), places


class Ours:
    """An attack of this library on a Keras file.

    Attributes:
        logits: the model, a function in inference mode.
        correct: bool [n], which images it classifies correctly.
        seconds: CPU seconds of the last run by part of the attack.

    Args:
        file: the .keras file.
        attack: the attack.
        images: float32 [n, ...].
        labels: int32 [n].
        places: int [n], of the images in the data set.
    """

    def __init__(self, file: str, attack: attacks.Attack, images: np.ndarray, labels: np.ndarray, places: np.ndarray):
        model = models.load(file)
        self.logits = lambda batch: model(batch, training=False)
        graph = tf.function(self.logits, reduce_retracing=True)
        self._predict = lambda batch: graph(tf.constant(batch)).numpy()
        self._examples = images, labels, places
        self._engine = attacks.Engine(attack, self.logits, images.shape[1:], model.output_shape[-1])
        scores = self._predict(images)
        self.correct = scores.argmax(-1) == labels
        self.seconds: dict[str, float] = {}

    def run(self, rows: np.ndarray | slice = slice(None), seed: int = 0) -> tuple[attacks.Outcome, float]:
        """The outcome on some of the images, and the CPU seconds it took; the first run traces the graphs as well."""
        images, labels, places = (array[rows] for array in self._examples)
        self.seconds = {}
        began = last = time.process_time()

        def tell(part: str, _: int) -> None:
            nonlocal last
            now = time.process_time()
            self.seconds[part] = self.seconds.get(part, 0.0) + now - last
            last = now

        outcome = self._engine.run(
            images,
            labels,
            places,
            {"model": self._predict},
            {"model": self.correct[rows]},
            seed=seed,
            progress=tell,
        )
        return outcome, time.process_time() - began


def official(
    python: str, file: str, images: np.ndarray, labels: np.ndarray, eps: float, norm: str, stages: str, seed: int
) -> dict:
    """Runs attack_peer.py, which says what comes back."""
    with tempfile.TemporaryDirectory() as folder:
        arrays, out = Path(folder) / "images.npz", Path(folder) / "out.json"
        np.savez(arrays, images=images, labels=labels)
        words = [python, str(Path(__file__).with_name("attack_peer.py")), file, str(arrays), str(eps), norm, stages]
        environment = {**os.environ, "KERAS_BACKEND": "torch", **ONE_THREAD}
        subprocess.run([*words, str(seed), str(out)], check=True, env=environment)
        return json.loads(out.read_text())


def write(program: str, name: str, result: dict) -> None:
    """Writes results/PROGRAM/NAME.json."""
    folder = Path(__file__).parent / "results" / program
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
