"""Layers that compute in another precision for a while."""

import contextlib
from collections.abc import Collection, Iterator

import keras


@contextlib.contextmanager
def under_policy(layers: Collection[keras.layers.Layer], policy: str) -> Iterator[None]:
    """Inside this context the layers have another dtype policy; afterwards each has its own again.

    Args:
        layers: built layers, whose variables stay as they are.
        policy: the name of a Keras dtype policy.
    """
    own = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            layer.dtype_policy = before
