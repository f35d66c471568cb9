"""Peak memory of adversarial training with and without pruning: EfficientNetB0 at 224 x 224, as a user trains it.

Command: python -m benchmarks.memory [--batch=8] [--accumulate=4] [--steps=3] [--attack-steps=2] [--size=224]
The third variant prunes too, and computes each batch in parts, as train's --accumulate does.
Each variant runs in a process of its own, whose peak resident memory is taken from the operating system; what
TensorFlow and the libraries take before a model exists is stated beside it, and taken off in the second ratio. Writes
benchmarks/results/memory/results.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

VARIANTS = ("dense", "pruned", "pruned_in_parts")
FOLDER = Path(__file__).parent / "results" / "memory"


def peak_megabytes() -> float:
    """Peak resident memory of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Trains a few steps in this process."""
    import keras
    import numpy as np

    import harp_tf

    rng = np.random.default_rng(0)
    images = rng.random((options.batch * options.steps, options.size, options.size, 3), np.float32)
    labels = rng.integers(0, 10, len(images))
    imported = peak_megabytes()
    shape = (options.size, options.size, 3)
    network = keras.applications.EfficientNetB0(weights=None, input_shape=shape, classes=10, classifier_activation=None)
    model = keras.Sequential([keras.Input(shape), keras.layers.Rescaling(255.0), network])
    callbacks = []
    if variant != "dense":
        model = harp_tf.prune(model, target_sparsity=0.99, verbose=False)
        callbacks.append(harp_tf.StepwiseRegularization(gamma=0.01))
    attack = harp_tf.attacks.PGD(eps=4 / 255, steps=options.attack_steps)
    parts = options.accumulate if variant == "pruned_in_parts" else 1
    trainer = harp_tf.AdversarialModel(model, "pgd", attack, accumulate=parts)
    trainer.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    trainer.fit(images, labels, batch_size=options.batch, verbose=0, callbacks=callbacks)
    return {"imported_mb": round(imported, 1), "peak_mb": round(peak_megabytes(), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--attack-steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options)))
        return

    from harp_tf.run_dir import surroundings

    command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:]]
    found = {}
    for variant in VARIANTS:
        process = subprocess.run([*command, f"--variant={variant}"], check=True, stdout=subprocess.PIPE, text=True)
        found[variant] = json.loads(process.stdout.strip().splitlines()[-1])
        print(
            f"{variant}: peak {found[variant]['peak_mb']:.0f} MB, {found[variant]['imported_mb']:.0f} MB of it imports"
        )
    dense, pruned, parts = (found[variant] for variant in VARIANTS)

    def above_imports(one: dict[str, float], other: dict[str, float]) -> float:
        return round((one["peak_mb"] - one["imported_mb"]) / (other["peak_mb"] - other["imported_mb"]), 3)

    result = {
        "command": " ".join(["python -m benchmarks.memory", *sys.argv[1:]]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
        "network": "EfficientNetB0",
        "size": options.size,
        "batch": options.batch,
        "training_steps": options.steps,
        "attack_steps": options.attack_steps,
        **found,
        "ratio_of_peaks": round(pruned["peak_mb"] / dense["peak_mb"], 3),
        "ratio_above_imports": above_imports(pruned, dense),
        "accumulate": options.accumulate,
        "ratio_in_parts": round(parts["peak_mb"] / pruned["peak_mb"], 3),
        "ratio_in_parts_above_imports": above_imports(parts, pruned),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.joinpath("results.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"pruned / dense: {result['ratio_of_peaks']} (without the imports: {result['ratio_above_imports']})")
    print(
        f"in {options.accumulate} parts / whole: {result['ratio_in_parts']} (without the imports: "
        f"{result['ratio_in_parts_above_imports']})"
    )


if __name__ == "__main__":
    main()
