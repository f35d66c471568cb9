"""Trainings that must end the same on one device, on two of one process and in two processes; run as a program.

`python -m tests.training.distributed_cases STRATEGY,... CASE...` trains each case under each strategy ("mirrored:2": on
two devices) and prints one line of JSON: what the epochs reported and what was learned. A process of its own, because
devices are divided before TensorFlow starts.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.layers import pruned_kernels, set_stage
from harp_tf.losses import FreeAdversarialTraining
from harp_tf.training import distribution
from harp_tf.training.precision import computing_in

BATCH, VALIDATION_BATCH = 12, 14
ATTACK = PGD(eps=0.1, steps=2)


def images_and_labels(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of three kinds (bright top, middle or bottom) and their classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    images = generator.uniform(0.0, 0.6, size=(number, 4, 4, 1))
    for image, label in zip(images, labels):
        image[label : label + 2] += 0.35
    return images.astype("float32"), labels.astype("int32")


def classifier(synchronized: bool = True, dropout: float = 0.0) -> keras.Sequential:
    """16 pixels -> 12 hidden units with a regulariser and batch norm -> 3 classes."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4, 4, 1)),
        keras.layers.Conv2D(4, 3, padding="same", name="conv"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(12, name="hidden", kernel_regularizer="l2"),
        keras.layers.BatchNormalization(name="bn", momentum=0.9, synchronized=synchronized),
        keras.layers.ReLU(name="relu"),
        *([keras.layers.Dropout(dropout, seed=1)] if dropout else []),
        keras.layers.Dense(3, name="logits"),
    ]
    return keras.Sequential(layers, name="classifier")


def train(case: str) -> dict:
    """Trains two epochs of two global batches, "LOSS" with rates, "LOSS:finetune" under fixed masks, "LOSS:half" in
    mixed_float16, whose loss is scaled."""
    loss, _, variant = case.partition(":")
    network = classifier(synchronized=variant != "local", dropout=0.5 if variant == "dropout" else 0.0)
    callbacks = []
    if variant != "dense":
        network = harp_tf.prune(
            network, 0.5, granularity="channel" if variant == "channel" else "weight", verbose=False
        )
        if variant == "finetune":
            set_stage(network, "finetune")
        else:
            callbacks = [harp_tf.StepwiseRegularization(0.1)]
    with computing_in(network, "mixed_float16" if variant == "half" else "float32"):
        robust = FreeAdversarialTraining(batch_size=BATCH, replays=2) if loss == "free" else loss
        accumulate = 2 if variant == "accumulate" else 1
        trainer = harp_tf.AdversarialModel(network, robust, ATTACK, weight_decay=0.01, seed=3, accumulate=accumulate)
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=1.0 if variant == "clipped" else None)
        trainer.compile(optimizer, metrics=["sparse_categorical_accuracy"])
        batches = tf.data.Dataset.from_tensor_slices(images_and_labels(2 * BATCH, 0)).batch(BATCH)
        held_out = tf.data.Dataset.from_tensor_slices(images_and_labels(21, 1)).batch(VALIDATION_BATCH)
        best = harp_tf.training.KeepBest()
        history = trainer.fit(
            batches.repeat(),
            epochs=2,
            steps_per_epoch=2,
            validation_data=held_out,
            callbacks=[best, *callbacks],
            verbose=0,
            shuffle=False,
        ).history
    learned = {v.path: keras.ops.convert_to_numpy(v) for v in network.variables}
    copies = [trainer.distribute_strategy.experimental_local_results(v.value) for v in network.variables]
    own = {name: keras.ops.convert_to_numpy(variable) for name, variable in trainer.own_state().items()}
    return {
        "history": {name: np.asarray(values, float).ravel().tolist() for name, values in history.items()},
        "learned": {name: np.asarray(value, float).tolist() for name, value in {**learned, **own}.items()},
        "rates": [float(kernel.scores.rate()) for kernel in pruned_kernels(network)],
        "apart": max(float(np.ptp(np.array([c.numpy() for c in found], float), axis=0).max()) for found in copies),
        "best_epoch": best.best_epoch,
        "images_counted": float(keras.ops.convert_to_numpy(trainer._figures["natural_accuracy"].count)),
    }


def main(names: str, *cases: str) -> None:
    """Prints the results of the cases, by strategy."""
    results = {}
    for name in names.split(","):  # the divided one first: TensorFlow divides nothing when it has started
        kind, _, devices = name.partition(":")
        strategy = distribution.make_strategy(kind, int(devices) if devices else None)
        with strategy.scope():
            results[name] = {case: train(case) for case in cases}
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
