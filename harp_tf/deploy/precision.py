"""Files compute in float32, also where the Keras model computes in shorter numbers."""

import contextlib
from collections.abc import Iterator

import keras

from harp_tf.layers.dtype_policies import under_policy


@contextlib.contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Inside this context the layers of a model with a mixed policy, whose weights are float32, compute in float32.

    TFLite has no operators that compute in float16 or bfloat16.

    Args:
        model: a built model; afterwards it is as it was.
    """
    mixed = [
        layer
        for layer in model._flatten_layers()  # Keras has no public list of all layers, nested ones included.
        if layer.dtype_policy.name in ("mixed_float16", "mixed_bfloat16")
    ]
    with under_policy(mixed, "float32"):
        yield
