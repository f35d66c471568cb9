"""Rebuilding a Keras model with some of its layers replaced by others of the same name and weights."""

from collections.abc import Callable, Iterator

import keras
from keras.src.models.functional import Functional  # keras.Model(inputs, outputs) makes these; no public name

from harp_tf.types import HarpError

Replacement = Callable[[str, keras.layers.Layer], tuple[type, dict] | None]
"""(path, layer) -> (class, config) of the layer that takes its place, or None to keep it."""


def walk(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) of every layer of a model once, nested models opened, in the order of the network."""
    seen: set[int] = set()

    def visit(model: keras.Model, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        for layer in model.layers:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            if is_graph(layer):
                yield from visit(layer, f"{prefix}{layer.name}/")
            else:
                yield f"{prefix}{layer.name}", layer

    return visit(model, prefix)


def is_graph(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a Sequential or Functional model, whose layers can be replaced."""
    return isinstance(layer, (keras.Sequential, Functional))


def rebuild(model: keras.Model, replace: Replacement) -> keras.Model:
    """Copies a model through its config, with replaced layers; names, sharing and graph stay.

    Args:
        model: a built Sequential or Functional model, which is left as it is.
        replace: decides per layer.

    Returns:
        A new model. The weights of layers that were kept are copied; those of replaced ones are up to the caller.

    Raises:
        HarpError: if `model` is not a built Sequential or Functional model.
    """
    if not isinstance(model, keras.Model):
        raise HarpError(
            f"Expected a Keras 3 model (keras.Model), received {type(model).__module__}.{type(model).__name__}."
        )
    if not is_graph(model):
        raise HarpError(
            f"Model {model.name!r} is a subclass of keras.Model ({type(model).__name__}), whose layers cannot be "
            "replaced. Build it with keras.Sequential or the functional API."
        )
    if not model.built:
        raise HarpError(
            f"Model {model.name!r} has no weights yet. Add keras.Input(...) or call it on a batch first."
        )
    classes = {type(layer) for _, layer in walk(model)}
    custom = {cls.__name__: cls for cls in classes if not cls.__module__.startswith(("keras.", "harp_tf."))}
    with keras.saving.custom_object_scope(custom):
        copy = type(model).from_config(_rewrite(model, replace, ""))
    if not copy.built:
        copy.build(model.input_shape)
    for (_, old), (path, new) in zip(walk(model), walk(copy), strict=True):
        if replace(path, old) is None:
            copy_variables(old.variables, new.variables)
    return copy


def copy_variables(sources: list[keras.Variable], targets: list[keras.Variable]) -> None:
    """Assigns the values of one list of variables to another."""
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def _rewrite(model: keras.Model, replace: Replacement, prefix: str) -> dict:
    config = model.get_config()
    layers = {layer.name: layer for layer in model.layers}
    entries = []
    for entry in config["layers"]:
        name = entry["config"]["name"]
        layer = layers.get(name)
        if layer is None:  # the InputLayer of a Sequential model
            entries.append(entry)
        elif is_graph(layer):
            entries.append({**entry, "config": _rewrite(layer, replace, f"{prefix}{name}/")})
        else:
            replacement = replace(f"{prefix}{name}", layer)
            if replacement is not None:
                cls, layer_config = replacement
                identity = {
                    "module": cls.__module__,
                    "class_name": cls.__name__,
                    "registered_name": keras.saving.get_registered_name(cls),
                }
                entry = {**entry, **identity, "config": layer_config}
            entries.append(entry)
    return {**config, "layers": entries}
