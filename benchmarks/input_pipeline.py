"""What the input pipeline adds to a training step: steps on fresh batches against steps on one batch kept in memory.

Command: python -m benchmarks.input_pipeline [--blocks=15] [--seconds=2] [--only=NAME]
Blocks of steps on fresh batches and on the same batch are timed in turn, so that a machine whose speed drifts does not
decide. Written down are the ratios of the medians: of wall time, which is what a user waits and what other programs
disturb, and of the processor time of the whole process, the pipeline's threads included; and "pipeline_share", the
processor time of making a batch alone over that of a step, which has the least noise. An accelerator computes beside
the processor: there nothing is lost as long as the wall time of "pipeline_ms" is below that of a step.
Writes benchmarks/results/input_pipeline/results.json; with --only the other cases in it stay.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import harp_tf
from harp_tf import data
from harp_tf.data.memory import MemorySplit
from harp_tf.data.splits import Split
from harp_tf.data.streamed import StreamedSplit
from harp_tf.run_dir import surroundings

FOLDER = Path(__file__).parent / "results" / "input_pipeline"
FASHION = "idx:/usr/share/datasets/fashion-mnist"


class Records(NamedTuple):
    """What to read of a file, as TensorFlow Datasets says it."""

    filename: str
    skip: int
    take: int


def generated(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour images with smooth contents, so that JPEG takes a photograph's time, and their classes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    images = tf.image.resize(coarse, [size, size]).numpy() + rng.normal(0, 8, (count, size, size, 3))
    return np.clip(images, 0, 255).astype(np.uint8), rng.integers(0, 10, count)


def streamed(folder: Path, count: int, size: int, resize: int) -> Split:
    """JPEG images in 16 record files, as ImageNet comes."""
    images, labels = generated(count, size)
    records = []
    for part in range(16):
        path, own = folder / f"part-{part}", range(part, count, 16)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for i in own:
                jpeg = tf.io.encode_jpeg(images[i]).numpy()
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[i]])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        records.append(Records(str(path), 0, len(own)))
    kinds = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, kinds)
        return tf.io.decode_jpeg(example["image"], channels=3), example["label"]

    return StreamedSplit(records, decode, resize=resize)


def vgg_on_fashion_mnist(folder: Path) -> tuple[Split, keras.Model, int, int]:
    split = data.load(FASHION).train
    return split, harp_tf.models.build("vgg28", (28, 28, 1), 10), 128, 7


def small_cnn_on_fashion_mnist(folder: Path) -> tuple[Split, keras.Model, int, int]:
    split = data.load(FASHION).train
    return split, harp_tf.models.build("cnn_digits", (28, 28, 1), 10), 128, 0


def resnet_on_augmented_images(folder: Path) -> tuple[Split, keras.Model, int, int]:
    split = MemorySplit(*generated(10_000, 32), shift=True, mirror=True)
    return split, harp_tf.models.build("resnet18", (32, 32, 3), 10, width=0.25), 128, 0


def resnet_on_streamed_jpegs(folder: Path) -> tuple[Split, keras.Model, int, int]:
    split = streamed(folder, count=512, size=256, resize=64)
    return split, harp_tf.models.build("resnet18", (64, 64, 3), 10, width=0.25), 32, 10


CASES: dict[str, Callable[[Path], tuple[Split, keras.Model, int, int]]] = {
    "vgg28, Fashion-MNIST, PGD-7": vgg_on_fashion_mnist,
    "cnn_digits, Fashion-MNIST, natural": small_cnn_on_fashion_mnist,
    "resnet18 x 0.25, 32 x 32 augmented, natural": resnet_on_augmented_images,
    "resnet18 x 0.25, streamed 256 x 256 JPEG cropped to 64 x 64, PGD-10": resnet_on_streamed_jpegs,
}


def timed(step: Callable[[], object], count: int) -> tuple[float, float]:
    """Wall and processor seconds per step."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    return (time.perf_counter() - wall) / count, (time.process_time() - processor) / count


def trainer_of(network: keras.Model, attack_steps: int) -> harp_tf.AdversarialModel:
    """A training of the network as `fit` compiles it; without an attack for 0 steps."""
    attack = harp_tf.attacks.PGD(eps=8 / 255, steps=attack_steps) if attack_steps else None
    trainer = harp_tf.AdversarialModel(network, "pgd" if attack else "natural", attack)
    trainer.compile(keras.optimizers.SGD(1e-4, momentum=0.9))
    trainer.build_optimizer()
    trainer.make_train_function()
    return trainer


def measure(split: Split, network: keras.Model, batch: int, attack_steps: int, blocks: int, seconds: float) -> dict:
    """Times the steps of one case."""
    trainer = trainer_of(network, attack_steps)
    batches = split.training_batches(batch, seed=0)
    kept = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    iterators: dict[str, Iterator] = {"fresh": iter(batches), "kept": iter(kept)}

    def step(kind: str) -> Callable[[], object]:
        return lambda: trainer.train_function(iterators[kind])["loss"].numpy()

    for kind in iterators:
        step(kind)()  # traces
    count = max(1, round(seconds / timed(step("kept"), 2)[0]))
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in iterators}
    for _ in range(blocks):
        for kind in ("kept", "fresh"):
            found[kind].append(timed(step(kind), count))
    medians = {kind: [1e3 * statistics.median(values) for values in zip(*pairs)] for kind, pairs in found.items()}
    fresh = iter(split.training_batches(batch, seed=1))
    next(fresh)
    alone = timed(lambda: next(fresh), 20)
    return {
        "batch": batch,
        "attack_steps": attack_steps,
        "steps": blocks * count,
        "wall_ms": {kind: round(values[0], 2) for kind, values in medians.items()},
        "processor_ms": {kind: round(values[1], 2) for kind, values in medians.items()},
        "wall_ratio": round(medians["fresh"][0] / medians["kept"][0], 4),
        "processor_ratio": round(medians["fresh"][1] / medians["kept"][1], 4),
        "pipeline_share": round(alone[1] * 1e3 / medians["kept"][1], 4),
        "load_average": round(os.getloadavg()[0], 2),
        "pipeline_ms": {"wall": round(1e3 * alone[0], 2), "processor": round(1e3 * alone[1], 2)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block")
    parser.add_argument("--only", default="", help="part of a case's name")
    options = parser.parse_args()
    path = FOLDER / "results.json"
    FOLDER.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(path.read_text()) if options.only and path.exists() else {}
    result = {
        "command": " ".join(["python -m benchmarks.input_pipeline", *sys.argv[1:]]),
        **surroundings(),
        "cases": earlier.get("cases", {}),
    }
    for name, case in CASES.items():
        if options.only in name:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(*case(Path(folder)), blocks=options.blocks, seconds=options.seconds)
            result["cases"][name] = found
            path.write_text(json.dumps(result, indent=2) + "\n")
            print(f"{name}: wall {found['wall_ratio']}, processor {found['processor_ratio']}, {found}", flush=True)


if __name__ == "__main__":
    main()
