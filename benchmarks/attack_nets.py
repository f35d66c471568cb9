"""Trains the small robust networks with batch norm that benchmarks.attack_parity compares attacks on.

Command: python -m benchmarks.attack_nets --out=FILE.keras [--classes=10] [--data=idx:/usr/share/datasets/fashion-mnist]
             [--eps=0.1] [--norm=linf] [--epochs=4] [--limit=12000]
"""

import argparse

import keras
import numpy as np
import tensorflow as tf

from harp_tf import attacks, data


def build(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Two strided convolutions with batch norm and two dense layers."""
    image = keras.Input(shape)
    x = image
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 4, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(32, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(classes)(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--data", default="idx:/usr/share/datasets/fashion-mnist")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int, default=12000)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    splits = data.load(arguments.data, seed=0)
    images, labels = splits.train.arrays()
    chosen = np.flatnonzero(labels < arguments.classes)[: arguments.limit]
    images, labels = images[chosen], labels[chosen].astype(np.int32)
    model = build(images.shape[1:], arguments.classes)
    attack = attacks.PGD(eps=arguments.eps, norm=arguments.norm, steps=5)
    optimizer = keras.optimizers.Adam(2e-3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        adversarial = attack(lambda candidates: model(candidates, training=False), x, y, seed)
        with tf.GradientTape() as tape:
            value = loss(y, model(adversarial, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return value

    batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=0).batch(100)
    for epoch in range(arguments.epochs):
        values = [float(step(x, y, tf.constant([epoch, number]))) for number, (x, y) in enumerate(batches)]
        print(f"epoch {epoch}: loss on adversarial images {np.mean(values):.3f}", flush=True)
    model.save(arguments.out)


if __name__ == "__main__":
    main()
