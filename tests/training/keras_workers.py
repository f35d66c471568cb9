"""Plain Keras under several workers, run as a program by each: says which breakages of Keras are still there."""

import json

import keras
import numpy as np
import tensorflow as tf


class BuiltByItself(keras.Sequential):
    """Only with the way around the first breakage."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """What `KerasUnderStrategies` does where everything is built."""


def fit(kind: type, strategy: tf.distribute.Strategy) -> str:
    """Trains one epoch; the error's first words, or "works"."""
    images, labels = np.ones((8, 4), "float32"), np.zeros(8, "int32")
    with strategy.scope():
        model = kind([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.optimizer.build(model.trainable_variables)
    try:
        model.fit(tf.data.Dataset.from_tensor_slices((images, labels)).batch(4), verbose=0)
    except ValueError as error:
        return str(error)
    return "works"


def main() -> None:
    """Prints what happened as JSON."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = {"symbolic build": fit(keras.Sequential, strategy), "scalar figures": fit(BuiltByItself, strategy)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
