"""CPU time of PGD-40 on one thread: beside a loop written by hand, foolbox and ART, all on the same file and images.

Command: python -m benchmarks.attack_throughput --model=robust_fmnist.keras [--peer=PYTHON] [--rounds=5] [--samples=250]
             [--data=idx:/usr/share/datasets/fashion-mnist] [--classes=10] [--eps=0.1] [--name=fmnist]
PYTHON is the interpreter of an environment with tensorflow, foolbox and adversarial-robustness-toolbox, see
attack_throughput_peer.py. Ours is the whole path of an evaluation: seeds for each example, checks of the candidates and
the predictions that decide. All take turns; graphs are traced before the clock starts, in every process. Writes
benchmarks/results/attack_throughput/NAME.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import attack_sides
from harp_tf import attacks

STEPS = 40
PEERS = ("foolbox", "art", "art_default_batch")


def hand_written(logits: attacks.Logits, shape: tuple[int, ...], eps: float) -> Callable:
    """PGD as one would write it down: a tf.function with a while loop, nothing else."""

    @tf.function(input_signature=[tf.TensorSpec([None, *shape]), tf.TensorSpec([None], tf.int32)])
    def craft(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        low, high = tf.maximum(images - eps, 0.0), tf.minimum(images + eps, 1.0)
        start = tf.clip_by_value(images + tf.random.uniform(tf.shape(images), -eps, eps), low, high)

        def body(count: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(x))
            return count + 1, tf.clip_by_value(x + eps / 10 * tf.sign(tape.gradient(loss, x)), low, high)

        return tf.while_loop(lambda count, _: count < STEPS, body, (0, start))[1]

    return craft


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer")
    parser.add_argument("--data", default="idx:/usr/share/datasets/fashion-mnist")
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="fmnist")
    arguments = parser.parse_args()
    attack_sides.one_thread()

    result = attack_sides.head("attack_throughput")
    images, labels, places = attack_sides.test_images(arguments.data, arguments.classes, 0, arguments.samples)
    attack = attacks.get(f"pgd{STEPS}", eps=arguments.eps)
    ours = attack_sides.Ours(arguments.model, attack, images, labels, places)
    right = np.flatnonzero(ours.correct)
    bare = hand_written(ours.logits, images.shape[1:], arguments.eps)
    kept = tf.constant(images[right]), tf.constant(labels[right])

    def by_hand() -> tuple[float, float]:
        began = time.process_time()
        candidates = bare(*kept)
        spent = time.process_time() - began
        return spent, float((ours.logits(candidates).numpy().argmax(-1) == labels[right]).mean())

    ours.run(right)
    by_hand()
    seconds: dict[str, list[float]] = {"ours": [], "hand_written": []}
    standing: dict[str, float] = {}
    versions = {}
    with tempfile.TemporaryDirectory() as folder:
        arrays, out = Path(folder) / "images.npz", Path(folder) / "out.json"
        np.savez(arrays, images=images[right], labels=labels[right])
        for _ in range(arguments.rounds):
            outcome, spent = ours.run(right)
            seconds["ours"].append(spent)
            standing["ours"] = float(outcome.standing["model"].mean())
            spent, standing["hand_written"] = by_hand()
            seconds["hand_written"].append(spent)
            if arguments.peer:
                program = str(Path(__file__).with_name("attack_throughput_peer.py"))
                words = [
                    arguments.peer,
                    program,
                    arguments.model,
                    str(arrays),
                    str(arguments.eps),
                    str(STEPS),
                    str(out),
                ]
                subprocess.run(words, check=True, env={**os.environ, **attack_sides.ONE_THREAD})
                other = json.loads(out.read_text())
                versions = other["versions"]
                for name in PEERS:
                    seconds.setdefault(name, []).append(other["cpu_seconds"][name])
                    standing[name] = other["standing"][name]
    result |= {
        "samples": len(right),
        "steps": STEPS,
        "cpu_seconds": {name: [round(value, 3) for value in found] for name, found in seconds.items()},
        "standing": standing,
        "times_ours": {
            name: round(statistics.median(a / b for a, b in zip(found, seconds["ours"])), 2)
            for name, found in seconds.items()
        },
        "peer_versions": versions,
    }
    attack_sides.write("attack_throughput", arguments.name, result)
    print(json.dumps({key: result[key] for key in ("cpu_seconds", "standing", "times_ours")}, indent=2))


if __name__ == "__main__":
    main()
