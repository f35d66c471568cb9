"""What tests of runs share: a tiny model, and how the files of a run directory are read."""

import json

import keras
import numpy as np

WEIGHTS = 8 * 9 + 16 * 8 * 9 + 10 * 256
"""Prunable weights of `tiny_model`."""

TINY_MODULE = """
import keras
from keras import layers


def build(input_shape, num_classes):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="first"),
            layers.BatchNormalization(momentum=0.9, name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", name="second"),
            layers.ReLU(name="relu2"),
            layers.Flatten(name="flatten"),
            layers.Dense(num_classes, name="last"),
        ],
        name="tiny",
    )
"""


def tiny_model() -> keras.Model:
    """The model that the module `tiny_of_a_user` builds, with always the same weights."""
    names: dict = {}
    exec(TINY_MODULE, names)
    keras.utils.set_random_seed(5)
    model = names["build"]((8, 8, 1), 10)
    for weights in model.layers[1].weights:  # moving statistics and scales that are not the initial ones
        weights.assign(np.linspace(0.5, 1.5, weights.shape[0]))
    return model


def read(path):
    return json.loads(path.read_text())


def kernels(path) -> dict[str, np.ndarray]:
    model = keras.models.load_model(path)
    return {layer.name: np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}


def counts(rates: dict) -> dict[str, int]:
    return {path: row["kept"] for path, row in rates["layers"].items()}


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metrics(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def untimed_metrics(run_dir) -> list[dict]:
    """The metrics that are the same in every run of the same settings."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in metrics(run_dir)]
