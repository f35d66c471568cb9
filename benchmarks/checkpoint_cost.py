"""What checkpoints cost a run: a training with them against the same without, and one checkpoint by itself.

Command: python -m benchmarks.checkpoint_cost [--pairs=5] [--epochs=4]
The network and settings of the quickstart in its prune stage. Trainings with and without checkpoints, at the flags'
defaults, are timed in turn, and the ratio is taken pair by pair, so that a machine whose speed drifts does not decide
the result; the time spent inside of the callback is counted by itself. A checkpoint of vgg16_bn is timed too.
Writes benchmarks/results/checkpoint_cost/results.json.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import harp_tf
from harp_tf import data
from harp_tf.config import RunConfig
from harp_tf.run_dir import surroundings
from harp_tf.training import Checkpoint, CheckpointStore, KeepBest

TARGET = Path(__file__).resolve().parent / "results" / "checkpoint_cost" / "results.json"


class Timed(Checkpoint):
    """A checkpoint callback that counts the seconds spent inside of it."""

    seconds, saves = 0.0, 0

    def _save(self, *args, **kwargs):
        super()._save(*args, **kwargs)
        self.saves += 1


def _timed(name: str):
    def method(self, *args, **kwargs):
        begin = time.perf_counter()
        result = getattr(Checkpoint, name)(self, *args, **kwargs)
        self.seconds += time.perf_counter() - begin
        return result

    return method


for hook in ("on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_test_batch_begin", "on_epoch_end"):
    setattr(Timed, hook, _timed(hook))


def trainer_of(model: str, shape: tuple[int, int, int]) -> harp_tf.AdversarialModel:
    network = harp_tf.prune(harp_tf.models.build(model, shape, 10), target_sparsity=0.99, verbose=False)
    trainer = harp_tf.AdversarialModel(network, "pgd", harp_tf.attacks.PGD(eps=0.1, steps=7), weight_decay=5e-4)
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    trainer.build_optimizer()
    return trainer


def fitted(trainer, splits: data.DataSplits, epochs: int, folder: Path | None) -> tuple[float, Timed | None]:
    """Seconds of a training, with checkpoints if there is a folder for them."""
    best = KeepBest()
    defaults = RunConfig.__dataclass_fields__
    checkpoint = None
    if folder is not None:
        store = CheckpointStore(folder, defaults["checkpoint_keep"].default)
        checkpoint = Timed(store, defaults["checkpoint_minutes"].default, best=best)
    begin = time.perf_counter()
    trainer.fit(
        splits.train.training_batches(32, seed=0),
        epochs=epochs,
        steps_per_epoch=splits.train.steps_per_epoch(32),
        validation_data=splits.validation.batches(256),
        verbose=0,
        callbacks=[best, harp_tf.StepwiseRegularization(0.05), *([checkpoint] if checkpoint else [])],
    )
    return time.perf_counter() - begin, checkpoint


def one_checkpoint(trainer, folder: Path) -> dict:
    """The bytes of a checkpoint and the seconds that it takes, with the weights of a best epoch in it."""
    best = KeepBest()
    best.best, best.best_epoch, best._weights = (0.5, 0.5), 0, trainer.network.get_weights()
    checkpoint = Checkpoint(CheckpointStore(folder), best=best)
    checkpoint.set_model(trainer)
    seconds = []
    for epoch in range(6):
        begin = time.perf_counter()
        checkpoint._save(harp_tf.training.Position(epoch))
        seconds.append(time.perf_counter() - begin)
    size = max(path.stat().st_size for path in folder.rglob("arrays.npz"))
    return {
        "weights": sum(int(np.prod(v.shape)) for v in trainer.network.variables),
        "bytes": size,
        "seconds_median": round(statistics.median(seconds), 3),
        "share_of_10_minutes": round(statistics.median(seconds) / 600, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    head = {
        "command": " ".join(["python -m benchmarks.checkpoint_cost", *sys.argv[1:]]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
    }
    splits = data.load("digits", seed=0)
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        trainer = trainer_of("cnn_digits", splits.input_shape)
        fitted(trainer, splits, 1, None)  # traces
        for pair in range(arguments.pairs):
            without, _ = fitted(trainer, splits, arguments.epochs, None)
            seconds, checkpoint = fitted(trainer, splits, arguments.epochs, Path(folder) / str(pair))
            assert checkpoint is not None
            row = {
                "without_s": round(without, 3),
                "with_s": round(seconds, 3),
                "ratio": round(seconds / without, 4),
                "checkpoints": checkpoint.saves,
                "share_inside": round(checkpoint.seconds / seconds, 4),
            }
            rows.append(row)
            print(row)
        checkpoints = {
            model: one_checkpoint(trainer_of(model, shape), Path(folder) / model)
            for model, shape in (("cnn_digits", splits.input_shape), ("vgg16_bn", (32, 32, 3)))
        }
    result = {
        **head,
        "epochs": arguments.epochs,
        "pairs": rows,
        "ratio_median": statistics.median(row["ratio"] for row in rows),
        "share_inside_median": statistics.median(row["share_inside"] for row in rows),
        "one_checkpoint": checkpoints,
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("ratio_median", "share_inside_median", "one_checkpoint")}, indent=2))


if __name__ == "__main__":
    main()
