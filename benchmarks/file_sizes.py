"""Sizes of the .tflite files of vgg16_bn for CIFAR-10 at 99 %, in every form, as the converter makes it and compacted.

Command: python -m benchmarks.file_sizes [--epochs=2] [--steps=8] [--forms float32 float32_sparse ...]
The masks are learned by HARP in a short run on random images and labels: sizes depend on how many weights each layer
keeps, not on what the network has learned. Writes benchmarks/results/file_sizes/vgg16_bn.json.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import harp_tf
from harp_tf import deploy
from harp_tf.run_dir import surroundings

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--forms", nargs="+", default=list(deploy.FORMS), choices=list(deploy.FORMS))
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.random((BATCH * arguments.steps, 32, 32, 3), np.float32)
    labels = rng.integers(0, 10, len(images)).astype(np.int32)

    dense = harp_tf.models.build("vgg16_bn", (32, 32, 3), 10, seed=0)
    pruned = harp_tf.prune(dense, 0.99, verbose=False)
    trainer = harp_tf.AdversarialModel(pruned, loss="pgd", attack=harp_tf.attacks.PGD(eps=8 / 255, steps=1))
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)
    trainer.fit(data, epochs=arguments.epochs, callbacks=[harp_tf.StepwiseRegularization(gamma=1.0)], verbose=2)
    harp_tf.project_to_budget(pruned)
    print(harp_tf.describe(pruned))
    stripped = harp_tf.strip(pruned)

    found: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        reference = deploy.export_tflite(dense, Path(folder) / "dense.tflite", check_images=images[:8]).file_bytes
        for name, model in {"stripped": stripped, "compact": harp_tf.compact(stripped)}.items():
            (Path(folder) / name).mkdir()
            variants = deploy.export_variants(
                model,
                Path(folder) / name,
                {"random": (images[:BATCH], labels[:BATCH])},
                images,
                names=arguments.forms,
                progress=print,
            )
            found[name] = {
                v.name: {
                    "file_bytes": v.report.file_bytes,
                    "gzip_bytes": v.report.gzip_bytes,
                    "memory_bytes": v.memory_bytes,
                    "nonzero": v.report.nonzero,
                    "parameters": v.report.parameters,
                    "share_of_dense_float32": v.report.file_bytes / reference,
                    "largest_logit_difference": v.report.max_logit_difference,
                }
                for v in variants
            }
    record = {
        "command": "python -m benchmarks.file_sizes " + " ".join(sys.argv[1:]),
        **surroundings(),
        "dense_float32_bytes": reference,
        "files": found,
    }
    path = Path(__file__).parent / "results" / "file_sizes" / "vgg16_bn.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, rows in found.items():
        for form, row in rows.items():
            print(f"{name:9} {form:20} {row['file_bytes']:12,} bytes  1/{1 / row['share_of_dense_float32']:.0f}")


if __name__ == "__main__":
    main()
