"""Files compute in float32, also where the Keras model computes in shorter numbers."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Inside this context the layers of a model with a mixed policy, whose weights are float32, compute in float32.

    TFLite has no operators that compute in float16 or bfloat16.

    Args:
        model: a built model; afterwards it is as it was.
    """
    mixed = [
        (layer, layer.dtype_policy)
        for layer in model._flatten_layers()  # Keras has no public list of all layers, nested ones included.
        if layer.dtype_policy.name in ("mixed_float16", "mixed_bfloat16")
    ]
    try:
        for layer, _ in mixed:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in mixed:
            layer.dtype_policy = policy
