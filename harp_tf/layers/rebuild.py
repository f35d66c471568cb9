"""Rebuilding a Keras model with some of its layers replaced by others of the same name and weights."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional  # keras.Model(inputs, outputs) makes these; no public name

from harp_tf.types import HarpError

Replacement = Callable[[str, keras.layers.Layer], tuple[type, dict] | None]
"""(path, layer) -> (class, config) of the layer that takes its place, or None to keep it."""


def walk(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) of every layer but the Inputs once, nested models opened, in the order of the network."""
    seen: set[int] = set()

    def visit(model: keras.Model, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        for layer in model.layers:
            # An Input may belong to a model and to one nested in it, and copies have one each.
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            if is_graph(layer):
                yield from visit(layer, f"{prefix}{layer.name}/")
            else:
                yield f"{prefix}{layer.name}", layer

    return visit(model, "")


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
        HarpError: if `model` is not a built Sequential or Functional model, or its configuration does not describe it.
    """
    require_graph(model)
    try:
        with keras.saving.custom_object_scope(_custom_objects(model)):
            copy = type(model).from_config(_rewrite(model, replace, ""))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, HarpError):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise HarpError(
            f"Model {model.name!r} cannot be rebuilt from its configuration ({reason}). Give custom layers a "
            "get_config(), use named functions instead of lambdas, and try keras.models.clone_model(model)."
        ) from error
    if not copy.built:
        copy.build(model.input_shape)
    old_layers, new_layers = dict(walk(model)), dict(walk(copy))
    if old_layers.keys() != new_layers.keys():
        raise HarpError(
            f"Model {model.name!r} shares layers between itself and a nested model "
            f"({', '.join(sorted(old_layers.keys() ^ new_layers.keys()))}), which no Keras configuration can express. "
            "Use the nested model as a whole, or flatten it."
        )
    for path, new in new_layers.items():
        if type(new) is type(old_layers[path]):
            copy_variables(old_layers[path].variables, new.variables)
    return copy


def require_graph(model: object) -> None:
    """Raises a HarpError unless `model` is a built Sequential or Functional Keras 3 model."""
    if not isinstance(model, keras.Model):
        raise HarpError(
            f"Expected a Keras 3 model (keras.Model), received {type(model).__module__}.{type(model).__name__}. "
            "Models of tf_keras, Keras 2 or another library have to be built anew with keras.layers."
        )
    if not is_graph(model):
        raise HarpError(
            f"Model {model.name!r} is a subclass of keras.Model ({type(model).__name__}), whose layers cannot be "
            "replaced. Build it with keras.Sequential or the functional API."
        )
    if not model.built:
        raise HarpError(f"Model {model.name!r} has no weights yet. Add keras.Input(...) or call it on a batch first.")


def _custom_objects(model: keras.Model) -> dict[str, Any]:
    """The user's own layer classes and functions, by the names under which Keras serialises them."""
    found: dict[str, Any] = {}
    for _, layer in walk(model):
        own = [value for name, value in vars(layer).items() if not hasattr(type(layer), name)]
        candidates: list[Any] = [type(layer), *(value for value in own if isinstance(value, types.FunctionType))]
        for custom in candidates:
            if custom.__module__.startswith(("keras.", "harp_tf.")):
                continue
            if found.setdefault(custom.__name__, custom) is not custom:
                raise HarpError(
                    f"Model {model.name!r} uses two different objects named {custom.__name__!r}. Register them under "
                    "names of their own with @keras.saving.register_keras_serializable('your_package')."
                )
    return found


def copy_variables(sources: list[keras.Variable], targets: list[keras.Variable]) -> None:
    """Assigns the values of one list of variables to another."""
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def _rewrite(model: keras.Model, replace: Replacement, prefix: str) -> dict:
    config = model.get_config()
    if "layers" not in config:
        raise HarpError(
            f"Model {model.name!r} is a {type(model).__name__}, whose configuration does not list its layers. Use "
            "keras.Model(model.inputs, model.outputs) of it."
        )
    layers = {layer.name: layer for layer in model.layers}
    entries = []
    for entry in config["layers"]:
        name = entry["config"]["name"]
        layer = layers.get(name)
        if layer is None:  # an operation without weights, or the InputLayer of a Sequential model
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
