"""What compaction saves: bytes and latency of .tflite files before and after `harp_tf.compact`.

Command: python -m benchmarks.compaction [--name=vgg16_bn] [--model=FILE.keras] [--sparsity=0.99] [--tail=1]
Without --model: vgg16_bn for CIFAR-10 with random weights and masks, rates by ERK. The score of a weight is a uniform
number times a log-normal one for its input channel and one for its output channel (sigma --tail; 0: uniform masks),
because masks that were learned are uneven. The files are timed in turn on single images. Writes
benchmarks/results/compaction/NAME.json.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import harp_tf
from harp_tf import strategies
from harp_tf.compaction import compact_with_report
from harp_tf.deploy.bench import latency
from harp_tf.run_dir import surroundings


def masked_vgg16(sparsity: float, tail: float, seed: int = 0) -> keras.Model:
    """vgg16_bn with random batch norms, and random masks that keep some channels far more often than others."""
    model = harp_tf.models.build("vgg16_bn", (32, 32, 3), 10)
    rng = np.random.default_rng(seed)
    kernels = {layer.name: layer.kernel for layer in model.layers if hasattr(layer, "kernel")}
    infos = [strategies.KernelInfo(name, kernel.numpy()) for name, kernel in kernels.items()]
    rates = strategies.get("erk")(infos, 1 - sparsity)
    for name, kernel in kernels.items():
        inputs, outputs = (rng.lognormal(0, tail, length) for length in kernel.shape[-2:])
        scores = rng.random(kernel.shape) * inputs[:, None] * outputs
        kept = max(1, round(rates[name] * scores.size))
        values = kernel.numpy() / np.sqrt(rates[name])
        values.flat[np.argsort(scores, axis=None)[:-kept]] = 0
        kernel.assign(values)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            drawn = (
                rng.uniform(0.5, 1.5, size),
                rng.normal(0, 0.1, size),
                rng.normal(0, 0.1, size),
                rng.uniform(0.5, 2, size),
            )
            layer.set_weights(drawn)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="vgg16_bn")
    parser.add_argument("--model")
    parser.add_argument("--sparsity", type=float, default=0.99)
    parser.add_argument("--tail", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()

    head = {
        "command": " ".join(["python -m benchmarks.compaction", *sys.argv[1:]]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
    }
    if arguments.model:
        model = keras.saving.load_model(arguments.model)
    else:
        model = masked_vgg16(arguments.sparsity, arguments.tail)
    small, report = compact_with_report(model)
    print(report)
    files: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, network in {"given": model, "compact": small}.items():
            for sparse in (False, True):
                variant = f"{name}_{'sparse' if sparse else 'dense'}"
                paths[variant] = Path(folder, f"{variant}.tflite")
                export = harp_tf.export_tflite(network, paths[variant], sparse=sparse)
                files[variant] = {
                    key: getattr(export, key) for key in ("file_bytes", "gzip_bytes", "parameters", "nonzero")
                }
        for found in latency(paths, threads=(1,), runs=arguments.runs, progress=print):
            files[found.name] |= {key: getattr(found, key) for key in ("median_ms", "p10_ms", "p90_ms", "ratio")}
    result = {**head, "files": files, "compaction": dataclasses.asdict(report)}
    path = Path(__file__).parent / "results" / "compaction" / f"{arguments.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in files.items():
        sizes = f"{row['file_bytes']:12,} bytes  {row['nonzero']:10,} non-zeros"
        print(f"{name:15} {sizes}  {row['median_ms']:8.3f} ms, {row['ratio']:.3f} of the first")


if __name__ == "__main__":
    main()
