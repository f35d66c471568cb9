"""What oneDNN's kernels gain where TensorFlow does not turn them on by itself: x86 processors without AVX-512.

Command: python -m benchmarks.onednn [--pairs=5] [--steps=8]
Adversarial training steps of vgg28 (batch 64, PGD-7) with TF_ENABLE_ONEDNN_OPTS=0 and =1, which TensorFlow reads at its
start: so a process each, in turn. The ratio is taken pair by pair, of wall time and of the processor time of the whole
process, the first step left out. Writes benchmarks/results/onednn.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

KINDS = ("wall", "processor")


def measure(steps: int) -> dict[str, float]:
    """Seconds of a step in this process."""
    import keras
    import numpy as np
    import tensorflow as tf

    import harp_tf

    network = harp_tf.models.build("vgg28", (28, 28, 1), 10)
    trainer = harp_tf.AdversarialModel(network, "pgd", harp_tf.attacks.PGD(eps=0.1, steps=7))
    trainer.compile(keras.optimizers.SGD(1e-4, momentum=0.9))
    step = tf.function(trainer.train_step, autograph=False)
    rng = np.random.default_rng(0)
    data = (tf.constant(rng.random((64, 28, 28, 1), np.float32)), tf.constant(rng.integers(0, 10, 64), tf.int32))
    step(data)["loss"].numpy()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step(data)["loss"].numpy()
    return {"wall": (time.perf_counter() - wall) / steps, "processor": (time.process_time() - processor) / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.steps)))
        return

    from harp_tf.run_dir import surroundings

    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "benchmarks.onednn", "--measure", f"--steps={options.steps}"]
    seconds: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
    for pair in range(options.pairs):
        for value, found in seconds.items():
            environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": value}
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"pair {pair + 1}: {1e3 * seconds['0'][-1]['wall']:.0f} and {1e3 * seconds['1'][-1]['wall']:.0f} ms")
    ratios = {kind: [on[kind] / off[kind] for off, on in zip(seconds["0"], seconds["1"])] for kind in KINDS}
    result = {
        "command": " ".join(["python -m benchmarks.onednn", *sys.argv[1:]]),
        "load_average": round(load, 2),
        **surroundings(),
        "instructions": sorted({"avx2", "avx512f", "avx512_vnni"} & set(Path("/proc/cpuinfo").read_text().split())),
        "median_ms": {
            value: {kind: round(1e3 * statistics.median(s[kind] for s in found), 1) for kind in KINDS}
            for value, found in seconds.items()
        },
        "on_by_off": {
            kind: {"median": round(statistics.median(r), 3), "min": round(min(r), 3), "max": round(max(r), 3)}
            for kind, r in ratios.items()
        },
    }
    Path(__file__).parent.joinpath("results", "onednn.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"with / without: {result['on_by_off']}")


if __name__ == "__main__":
    main()
