import keras
import numpy as np
from keras import layers

from harp_tf.layers import kernel_nonzeros, prune, rate_table, strip


def test_weights_and_nonzeros_of_plain_and_pruned_models():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.SeparableConv2D(4, 3, name="separable"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="dense"),
        ]
    )
    kernel = np.ones((144, 3), np.float32)
    kernel[:10] = 0
    model.get_layer("dense").kernel.assign(kernel)
    assert kernel_nonzeros(model) == {
        "separable/depthwise_kernel": (18, 18),
        "separable/pointwise_kernel": (8, 8),
        "dense/kernel": (432, 402),
    }
    pruned = prune(model, 0.8, mode="score", strategy="lamp", verbose=False)
    kept = {path: (row["weights"], row["kept"]) for path, row in rate_table(pruned).items()}
    assert sum(count for _, count in kept.values()) == 91
    assert kernel_nonzeros(pruned) == kernel_nonzeros(strip(pruned)) == kept
