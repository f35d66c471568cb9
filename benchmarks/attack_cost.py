"""CPU time of attacks, single thread: standard AutoAttack beside the official code, PGD-40 beside a hand-written loop.

Command: python -m benchmarks.attack_cost --model=robust_fmnist.keras [--data=idx:/usr/share/datasets/fashion-mnist]
             [--samples=100] [--eps=0.1] [--norm=linf] [--rounds=3] [--peer=PYTHON] [--stages=apgd-ce,apgd-t,...]
PYTHON is the interpreter of an environment with keras, torch and pyautoattack; without it only PGD is measured.
Both sides take turns, `rounds` times; the time to trace our graphs is counted apart. Writes
benchmarks/results/attack_cost/NAME.json.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from harp_tf import attacks, data, models
from harp_tf.run_dir import surroundings


def hand_written(model, eps: float, step: float, steps: int):
    """PGD as one would write it down: a tf.function with a while loop, nothing else."""

    @tf.function(input_signature=[tf.TensorSpec([None, *model.input_shape[1:]]), tf.TensorSpec([None], tf.int32)])
    def craft(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        low, high = tf.maximum(images - eps, 0.0), tf.minimum(images + eps, 1.0)
        start = tf.clip_by_value(images + tf.random.uniform(tf.shape(images), -eps, eps), low, high)

        def body(count: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x, training=False))
            return count + 1, tf.clip_by_value(x + step * tf.sign(tape.gradient(loss, x)), low, high)

        return tf.while_loop(lambda count, _: count < steps, body, (0, start))[1]

    return craft


def cpu(run) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="idx:/usr/share/datasets/fashion-mnist")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", default="apgd-ce,apgd-t,fab-t,square")
    parser.add_argument("--peer")
    parser.add_argument("--name", default="fmnist")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    result: dict = {
        "command": " ".join(["python -m benchmarks.attack_cost", *(re.sub("=.*/", "=", a) for a in sys.argv[1:])]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
        "samples": arguments.samples,
    }
    images, labels = data.load(arguments.data, seed=0).test.arrays()
    chosen = np.flatnonzero(labels < arguments.classes)[: arguments.samples]
    images, labels = images[chosen], labels[chosen]
    model = models.load(arguments.model)

    def logits(batch: tf.Tensor) -> tf.Tensor:
        return model(batch, training=False)

    graph = tf.function(logits, reduce_retracing=True)

    def predict(batch: np.ndarray) -> np.ndarray:
        return graph(tf.constant(batch)).numpy()

    correct = predict(images).argmax(-1) == labels

    def engine_of(attack: attacks.Attack):
        engine = attacks.Engine(attack, logits, images.shape[1:], arguments.classes)

        def run() -> attacks.Outcome:
            return engine.run(images, labels, chosen, {"model": predict}, {"model": correct})

        return run

    # PGD-40: the whole path of an evaluation, with its seeds, checks and predictions, beside the bare loop.
    ours = engine_of(attacks.get("pgd40", eps=arguments.eps))
    bare = hand_written(model, arguments.eps, arguments.eps / 10, 40)
    kept = tf.constant(images[correct]), tf.constant(labels[correct])
    seconds: dict[str, list[float]] = {"ours": [], "hand_written": []}
    tracing = cpu(ours) + cpu(lambda: bare(*kept))
    for _ in range(arguments.rounds):
        seconds["ours"].append(cpu(ours))
        seconds["hand_written"].append(cpu(lambda: bare(*kept)))
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["hand_written"]))
    result["pgd40"] = {"cpu_seconds": seconds, "first_calls": tracing, "ratio_to_hand_written": ratio}

    if arguments.peer:
        names = arguments.stages.split(",")
        run = engine_of(attacks.get("+".join(names), eps=arguments.eps, norm=arguments.norm))
        first = cpu(run)
        turns = []
        with tempfile.TemporaryDirectory() as folder:
            arrays, out = Path(folder) / "images.npz", Path(folder) / "out.json"
            np.savez(arrays, images=images, labels=labels)
            peer = [arguments.peer, str(Path(__file__).with_name("attack_peer.py")), arguments.model, str(arrays)]
            peer += [str(arguments.eps), arguments.norm, arguments.stages, "0", str(out)]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            for _ in range(arguments.rounds):
                began = time.process_time()
                outcome = run()
                mine = time.process_time() - began
                subprocess.run(peer, check=True, env={**os.environ, "KERAS_BACKEND": "torch", **threads})
                other = json.loads(out.read_text())
                turns.append({"ours": mine, "official": sum(other["cpu_seconds"].values())})
        result["cascade"] = {
            "stages": {
                name: {"ours": int(count) / len(images), "official": other["robust_accuracy"][name]}
                for name, count in zip(names, outcome.parts["model"])
            },
            "clean": {"ours": float(correct.mean()), "official": other["clean"]},
            "final_verdicts_that_differ": int((outcome.standing["model"] != np.array(other["standing"])).sum()),
            "official_cpu_seconds_by_stage": other["cpu_seconds"],
            "cpu_seconds": turns,
            "first_call_with_tracing": first,
            "ratio_to_official": statistics.median(turn["ours"] / turn["official"] for turn in turns),
            "peer_versions": other["versions"],
        }
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    folder = Path(__file__).parent / "results" / "attack_cost"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{arguments.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("pgd40", "cascade") if key in result}, indent=2))


if __name__ == "__main__":
    main()
