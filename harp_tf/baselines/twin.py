"""A Keras 2 twin of a Keras 3 network: the same graph and weights, for tools that know no Keras 3."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harp_tf.layers import PrunedLayer
from harp_tf.layers.graph import Tensor, graph_of
from harp_tf.types import HarpError

Wrap = Callable[[keras.layers.Layer, Any], Any]
"""(layer of the network, its twin) -> what takes the twin's place in the graph."""


class Twin:
    """A tf_keras model that computes what a network does, kept apart from it: weights are copied over and back.

    Args:
        network: a Sequential or Functional network in float32, wrapped by `harp_tf.prune`; its masks are not carried.
        wrap: wraps the twins of layers; None leaves them as they are.

    Raises:
        HarpError: if tf_keras is missing, or has not what the network is made of.
    """

    def __init__(self, network: keras.Model, wrap: Wrap | None = None):
        tf_keras = require("tf_keras")
        graph = graph_of(network)
        self.layers: dict[int, Any] = {}
        """What stands for each operation of the network, by its id."""
        self.pairs: list[tuple[keras.Variable, tf.Variable]] = []
        """The variables of the network, each with that of the twin."""
        tensors: dict[int, Any] = {t.index: tf_keras.Input(t.shape[1:], dtype=t.dtype) for t in graph.inputs}
        inputs = list(tensors.values())
        for call in graph.calls:
            operation: Any = call.operation
            if id(operation) not in self.layers:
                plain = _twin_of(tf_keras, operation, call.path)
                self.layers[id(operation)] = wrap(operation, plain) if wrap else plain
            given = keras.tree.map_structure(lambda a: tensors[a.index] if isinstance(a, Tensor) else a, call.args)
            made = self.layers[id(operation)](*given)
            tensors.update(
                zip((t.index for t in call.outputs), made if isinstance(made, list) else [made], strict=True)
            )
        self.model = tf_keras.Model(inputs, [tensors[t.index] for t in graph.outputs][0])
        for operation in {id(call.operation): call.operation for call in graph.calls}.values():
            layer = self.layers[id(operation)]
            own = operation.base_variables() if isinstance(operation, PrunedLayer) else operation.weights
            others = getattr(layer, "layer", layer).weights
            if [tuple(v.shape) for v in own] != [tuple(v.shape) for v in others]:
                raise HarpError(f"The weights of {operation.name!r} are others in Keras 2: {_ADVICE}")
            self.pairs += zip(own, others, strict=True)
        self.take()

    def take(self) -> None:
        """Gives the twin the weights of the network."""
        for own, other in self.pairs:
            other.assign(tf.convert_to_tensor(own))

    def give(self) -> None:
        """Gives the network the weights of the twin."""
        for own, other in self.pairs:
            own.assign(tf.convert_to_tensor(other))

    def check(self, dense: keras.Model) -> None:
        """Refuses a twin that computes something else than a model.

        Args:
            dense: a model of the same weights, without masks.
        """
        shape = [4 if size is None else size for size in dense.input_shape[1:]]
        images = np.random.default_rng(0).random((2, *shape), np.float32)
        ours, theirs = (np.asarray(model(images, training=False)) for model in (dense, self.model))
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(ours).max()):
            raise HarpError(f"The network computes other logits in Keras 2: {_ADVICE}")


_ADVICE = "choose another method than tfmot, which prunes a Keras 2 twin of the network."


def require(package: str) -> Any:
    """Imports an optional package.

    Raises:
        HarpError: if it is missing.
    """
    try:
        return __import__(package)
    except ImportError as error:
        raise HarpError(
            f"The method tfmot needs {package} ({error}). Leave it out, or install what it compares with: "
            'pip install "tensorflow-model-optimization>=0.8.1,<0.9" "tf_keras>=2.21,<2.22".'
        ) from error


def _twin_of(tf_keras: Any, operation: Any, path: str) -> Any:
    """A Keras 2 layer of the same class and configuration as a layer; its weights come later."""
    kind = operation.base_class if isinstance(operation, PrunedLayer) else type(operation)
    made = getattr(tf_keras.layers, kind.__name__, None)
    if made is None or not kind.__module__.startswith("keras.") or not isinstance(operation, keras.layers.Layer):
        raise HarpError(f"Keras 2 has no {kind.__name__} like {path!r}: {_ADVICE}")
    config = operation.base_config() if isinstance(operation, PrunedLayer) else operation.get_config()
    if operation.compute_dtype != "float32":
        raise HarpError(f"The layer {path!r} computes in {operation.compute_dtype}, not in float32: {_ADVICE}")
    kept = {}
    for name in inspect.signature(made.__init__).parameters:
        value = config.get(name)
        if name.endswith(("_regularizer", "_constraint")) and value is not None:
            raise HarpError(f"The layer {path!r} has a {name}, which is not carried over: {_ADVICE}")
        if name in config and not name.endswith("_initializer") and not isinstance(value, dict):
            kept[name] = value
        elif name == "activation" and isinstance(value, dict):
            raise HarpError(f"The layer {path!r} has an activation of its own: {_ADVICE}")
    return made(**kept, name=operation.name, trainable=operation.trainable)
