"""What pruning adds to an adversarial training step: the steps of pruned models against that of their dense model.

Command: python -m benchmarks.step_cost [--pairs=9] [--steps=10] [--batch=64]
Dense and pruned steps, with either gradient of the rates, are timed in turn on the same batch, and the ratio is taken
pair by pair, so that a machine whose speed drifts does not decide the result. Writes benchmarks/results/step_cost.json.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import harp_tf
from harp_tf.run_dir import surroundings

SHAPE = (32, 32, 3)
WIDTH = 0.58  # of vgg16_bn: 5.0 million prunable weights


def compiled_step(network: keras.Model, steps: int):
    """A compiled training step of the network, as `fit` runs it."""
    attack = harp_tf.attacks.PGD(eps=8 / 255, steps=steps)
    trainer = harp_tf.AdversarialModel(network, "pgd", attack, weight_decay=5e-4)
    trainer.compile(keras.optimizers.SGD(1e-4, momentum=0.9))
    return tf.function(trainer.train_step, autograph=False)  # as Keras compiles it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()

    head = {
        "command": " ".join(["python -m benchmarks.step_cost", *sys.argv[1:]]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
    }
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((arguments.batch, *SHAPE), np.float32))
    data = (images, tf.constant(rng.integers(0, 10, arguments.batch), tf.int32))
    dense = harp_tf.models.build("vgg16_bn", SHAPE, 10, width=WIDTH)
    steps = {"dense": compiled_step(dense, arguments.steps)}
    for name in ("sum", "marginal"):
        pruned = harp_tf.prune(dense, target_sparsity=0.99, rate_gradient=name, verbose=False)
        steps[name] = compiled_step(pruned, arguments.steps)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for pair in range(arguments.pairs + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(data)["loss"].numpy()
            if pair:  # the first call traces
                seconds[name].append(time.perf_counter() - start)
        if pair:
            print(f"pair {pair}: " + "  ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items()))
    ratios = {name: [p / d for p, d in zip(seconds[name], seconds["dense"])] for name in steps if name != "dense"}
    result = {
        **head,
        "weights": sum(int(np.prod(w.shape)) for w in dense.trainable_weights if len(w.shape) > 1),
        "batch": arguments.batch,
        "attack_steps": arguments.steps,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio_to_dense": {
            name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
            for name, values in ratios.items()
        },
    }
    Path(__file__).parent.joinpath("results", "step_cost.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, values in ratios.items():
        print(f"{name} / dense: {statistics.median(values):.3f} (from {min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
