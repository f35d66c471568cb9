"""Rebuilding a Keras model with some of its layers replaced by others of the same name and weights."""

import copy
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional  # keras.Model(inputs, outputs) makes these; no public name

from harp_tf.layers.composite import (
    IDENTITY,
    PrunedComposite,
    descendants,
    identity,
    is_composite,
    own_variables,
    pruned_composite,
)
from harp_tf.types import HarpError

Replacement = Callable[[str, keras.layers.Layer], tuple[type, dict] | None]
"""(path, layer) -> (class, config) of the layer that takes its place, or None to keep it."""


def walk(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) of every layer but the Inputs once, nested models opened, in the order of the network.

    A layer that holds others, such as MultiHeadAttention, comes before those. A subclassed model comes first itself,
    under the empty path, for the weights that it may have of its own.
    """
    seen: set[int] = set()
    for path, layer in visit(model):
        # An Input may belong to a model and to one nested in it, and copies have one each.
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer) or is_graph(layer):
            continue
        seen.add(id(layer))
        yield path, layer


def visit(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields what `walk` does, and Inputs, nested models and further occurrences of a layer too."""
    if not is_graph(model):
        yield "", model
        yield from descendants(model)
        return
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        yield path, layer
        if is_graph(layer):
            yield from visit(layer, f"{path}/")
        elif is_composite(layer):
            yield from descendants(layer, f"{path}/")


def is_graph(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a Sequential or Functional model that runs as its graph says."""
    if not isinstance(layer, (keras.Sequential, Functional)):
        return False
    return type(layer).call in (keras.Sequential.call, Functional.call)


def rebuild(model: keras.Model, replace: Replacement) -> keras.Model:
    """Copies a model through its config, with replaced layers; names, sharing and graph stay.

    Args:
        model: a built model, which is left as it is.
        replace: decides per layer. Layers inside of others, and those of a subclassed model, can only be replaced by
            their pruned form, and pruned ones by the plain form, all of them at once.

    Returns:
        A new model. The weights of layers that were kept are copied; those of replaced ones are up to the caller.

    Raises:
        HarpError: if `model` is not a built Keras model, or its configuration does not describe it.
    """
    require_built(model)
    try:
        with keras.saving.custom_object_scope(_custom_objects(model)):
            made = _copy(model, replace)
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        if isinstance(error, HarpError):
            raise
        reason = " ".join(str(error).strip().partition("\n\n")[0].split()) or type(error).__name__
        raise HarpError(
            f"Model {model.name!r} cannot be rebuilt from its configuration ({reason}). Give custom layers and models "
            "a get_config(), use named functions instead of lambdas, and try keras.models.clone_model(model)."
        ) from error
    old_layers, new_layers = dict(walk(model)), dict(walk(made))
    if old_layers.keys() != new_layers.keys():
        different = ", ".join(sorted(old_layers.keys() ^ new_layers.keys()))
        if not is_graph(model):
            raise HarpError(
                f"A copy of model {model.name!r} made from its get_config() has other layers ({different}). Make all "
                "layers in the constructor, of arguments that get_config() returns, or build the model with "
                "keras.Sequential or the functional API."
            )
        raise HarpError(
            f"Model {model.name!r} shares layers between itself and a nested model ({different}), which no Keras "
            "configuration can express. Use the nested model as a whole, or flatten it."
        )
    for path, new in new_layers.items():
        old = old_layers[path]
        if _plain_class(new) is _plain_class(old):
            copy_variables(own_variables(old), own_variables(new))
            if isinstance(new, keras.layers.Normalization):
                new.finalize_state()  # it computes with tensors made of its variables, which only loading makes anew
    # Layers inside of others are made by a constructor, which knows nothing of what was frozen later.
    frozen = {path: not layer.trainable for path, layer in visit(model)}
    for path, new in visit(made):
        if new.trainable == frozen.get(path):
            new.trainable = not frozen[path]
    return made


def _copy(model: keras.Model, replace: Replacement) -> keras.Model:
    if is_graph(model):
        cls, config = _rewrite(model, replace, "")
        made = cls.from_config(config)
        if not made.built:
            made.build(model.input_shape)
        _rename(model, made)
        return made
    entry = _replaced(keras.saving.serialize_keras_object(model), model, replace, "")
    made = keras.saving.deserialize_keras_object({key: entry[key] for key in IDENTITY})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' advice if this fails; the composite gives ours
        made.build_from_config(model.get_build_config())
    made.built = True
    return made


def _rename(model: keras.Model, made: keras.Model) -> None:
    """Gives the layers of a copied graph the names that theirs have: the config of some layers does not hold them."""
    pairs = zip(_operations(model), _operations(made), strict=True)
    for old, new in pairs:
        if is_graph(old) and is_graph(new):
            _rename(old, new)
        elif new.name != old.name:
            new.name = old.name


def _operations(graph: keras.Model) -> list[keras.Operation]:
    """Layers and operations of a graph, in the order of its config."""
    return graph._layers if isinstance(graph, keras.Sequential) else graph.operations


def _plain_class(layer: keras.layers.Layer) -> type:
    return layer.base_class if isinstance(layer, PrunedComposite) else type(layer)


def require_built(model: object) -> None:
    """Raises a HarpError unless `model` is a Keras 3 model with weights."""
    if not isinstance(model, keras.Model):
        raise HarpError(
            f"Expected a Keras 3 model (keras.Model), received {type(model).__module__}.{type(model).__name__}. "
            "Models of tf_keras, Keras 2 or another library have to be built anew with keras.layers."
        )
    if hasattr(model, "robust_loss"):
        raise HarpError(
            f"Expected a network, received {model.name!r}, a training (AdversarialModel) of one. Pass its network: "
            "trainer.network."
        )
    if not model.built:
        # Called on a batch, a Sequential would be built for batches of that size for good.
        advice = (
            "Begin it with keras.Input(shape)" if isinstance(model, keras.Sequential) else "Call it on a batch first"
        )
        raise HarpError(f"Model {model.name!r} has no weights yet. {advice}.")


def require_graph(model: object) -> None:
    """Raises a HarpError unless `model` is a built Sequential or Functional Keras 3 model."""
    if isinstance(model, keras.Model) and not is_graph(model):
        raise HarpError(
            f"Model {model.name!r} is a subclass of keras.Model ({type(model).__name__}), whose graph is not known. "
            "Build it with keras.Sequential or the functional API."
        )
    require_built(model)


def _custom_objects(model: keras.Model) -> dict[str, Any]:
    """The user's own layer classes and functions, by the names under which Keras serialises them."""
    found: dict[str, Any] = {}
    for _, layer in walk(model):
        own = [value for name, value in vars(layer).items() if not hasattr(type(layer), name)]
        cls = getattr(layer, "base_class", type(layer))
        candidates: list[Any] = [cls, *(value for value in own if isinstance(value, types.FunctionType))]
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


def _rewrite(model: keras.Model, replace: Replacement, prefix: str) -> tuple[type[keras.Model], dict]:
    """The class and configuration of a graph with replaced layers."""
    config = model.get_config()
    if "layers" not in config:
        # A class with a constructor of its own, which Keras saves by its arguments: a Functional of the same graph.
        model = Functional(model.input, model.output, name=model.name)
        config = model.get_config()
    entries = []
    for entry, layer in zip(config["layers"], _operations(model), strict=True):
        path = f"{prefix}{layer.name}"
        if not isinstance(layer, keras.layers.Layer):  # an operation without weights
            entries.append(entry)
        elif is_graph(layer):
            cls, inner = _rewrite(layer, replace, f"{path}/")
            entries.append({**entry, **(identity(cls) if cls is not type(layer) else {}), "config": inner})
        else:
            entries.append(_replaced(entry, layer, replace, path))
    return type(model), {**config, "layers": entries}


def _replaced(entry: dict, layer: keras.layers.Layer, replace: Replacement, path: str) -> dict:
    """What Keras serialises of a layer, with another class and configuration if it is to be replaced."""
    replacement = replace(path, layer)
    if replacement is not None:
        cls, config = replacement
        return {**entry, **identity(cls), "config": config}
    if not is_composite(layer):
        return entry
    inner = {}
    for below, child in dict(descendants(layer)).items():
        replacement = replace(f"{path}/{below}".lstrip("/"), child)
        if replacement is not None:
            own = child.get_config()
            inner[below] = {key: value for key, value in replacement[1].items() if key not in own}
    if not inner:
        return entry
    if isinstance(layer, PrunedComposite):
        return {**entry, **copy.deepcopy(layer.recipe.plain)}
    return pruned_composite(entry, inner, layer.trainable)
