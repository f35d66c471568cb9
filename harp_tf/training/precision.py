"""Computing in short floating-point numbers while everything that is learned and saved stays float32."""

import contextlib
from collections.abc import Iterator

import keras

from harp_tf.layers.dtype_policies import under_policy
from harp_tf.layers.scores import Scores


@contextlib.contextmanager
def computing_in(network: keras.Model, precision: str) -> Iterator[None]:
    """Inside this context the float32 layers of a network compute in another precision.

    Variables stay float32, scores and rates are computed in float32, and so are files written afterwards. Layers that
    have another precision of their own keep it. Trainings made inside the context scale their loss for float16.

    Args:
        network: dense or pruned.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
    """
    # Keras has no public list of all layers, nested ones included.
    layers = [
        layer
        for layer in network._flatten_layers()
        if layer.dtype_policy.name == "float32" and not isinstance(layer, Scores)
    ]
    with under_policy(layers, precision):
        yield


def computes_in_float16(network: keras.Model) -> bool:
    """Whether some layer of a network computes in float16, by itself or by the policy of the whole network."""
    return any(layer.compute_dtype == "float16" for layer in network._flatten_layers())
