"""What XNNPACK's sparse inference gains on emulated 64-bit ARM: a network as a dense and as a sparse file.

Command: python -m benchmarks.arm_sparse FOLDER [--model=mobile_sparse] [--sparsity=0.9] [--size=96] [--rounds=15]
FOLDER holds the emulator (tools/aarch64.sh sets it up on the first call). The model is mobile_sparse, or mobilenet_v2,
Keras' own, whose sparse file is made of the form that runs sparse (`rewrite_for_arm`) and whose dense file is not.
Weights and masks are random, the same share of every kernel is zero. Both files are invoked in turn on one thread with
XNNPACK, and the ratio is taken pair by pair. Emulated instructions cost other than real ones: the ratio says that zeros
are skipped, not what a phone gains. Writes benchmarks/results/arm_sparse/MODEL_SPARSITY.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import harp_tf
from harp_tf.run_dir import surroundings

HERE = Path(__file__).resolve().parent


def masked(name: str, size: int, sparsity: float, seed: int = 0) -> keras.Model:
    """A network for colour images with random zeros in every kernel."""
    if name == "mobile_sparse":
        model = harp_tf.models.build(name, (size, size, 3), 10, seed=seed)
    else:
        keras.utils.set_random_seed(seed)
        model = keras.applications.MobileNetV2((size, size, 3), weights=None, classes=10, classifier_activation=None)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            values = layer.kernel.numpy() / np.sqrt(1 - sparsity)
            if name == "mobilenet_v2" and isinstance(layer, keras.layers.DepthwiseConv2D):
                values *= np.sqrt(values.shape[2])  # Keras draws them as if they read all channels: features vanish
            values.flat[rng.permutation(values.size)[: round(sparsity * values.size)]] = 0
            layer.kernel.assign(values)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--model", choices=("mobile_sparse", "mobilenet_v2"), default="mobile_sparse")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    head = {
        "command": " ".join(["python -m benchmarks.arm_sparse FOLDER", *sys.argv[2:]]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
        "emulation": "qemu-aarch64 -cpu cortex-a76 (tools/aarch64.sh); CPU time of the emulator",
    }
    model = masked(arguments.model, arguments.size, arguments.sparsity)
    forms = {"dense": model, "sparse": harp_tf.deploy.rewrite_for_arm(model)}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{name}.tflite") for name in ("dense", "sparse")}
        reports = {
            name: harp_tf.export_tflite(forms[name], path, sparse=name == "sparse") for name, path in paths.items()
        }
        findings = harp_tf.deploy.arm_sparse_report(paths["sparse"])
        timed = Path(folder, "timed.json")
        files = [f"{name}={path}" for name, path in paths.items()]
        emulated = [HERE.parent / "tools" / "aarch64.sh", arguments.folder, HERE / "arm_invokes.py"]
        subprocess.run([*emulated, timed, str(arguments.rounds), *files], check=True)
        measured = json.loads(timed.read_text())
    dense, sparse = (measured["seconds"][name] for name in paths)
    ratios = [d / s for d, s in zip(dense, sparse)]
    logits = [np.array(measured["logits"][name]) for name in paths]
    result = {
        **head,
        "model": arguments.model,
        "rewritten": forms["sparse"] is not model,
        "image": [arguments.size, arguments.size, 3],
        "sparsity": arguments.sparsity,
        "findings": [str(finding) for finding in findings],
        "files": {
            name: {key: getattr(report, key) for key in ("file_bytes", "gzip_bytes", "parameters", "nonzero")}
            | {"median_cpu_seconds": statistics.median(measured["seconds"][name])}
            for name, report in reports.items()
        },
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "largest_logit": float(np.abs(logits[0]).max()),
        "largest_difference_of_a_logit": float(np.abs(logits[0] - logits[1]).max()),
    }
    path = HERE / "results" / "arm_sparse" / f"{arguments.model}_{arguments.sparsity}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"dense / sparse: {result['ratio_median']:.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
