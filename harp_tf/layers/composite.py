"""Layers and models whose kernels lie in layers of their own: attention, wrappers, users' blocks, subclassed models."""

import copy
import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.utils.naming import to_snake_case
from keras.src.utils.python_utils import is_default

from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.registry import kernels_of, pruned_class
from harp_tf.types import HarpError

IDENTITY = ("module", "class_name", "config", "registered_name")

# Attributes that Keras itself gives every layer and model; a name, so that no automatic one is used up.
_KERAS_ATTRIBUTES = frozenset(vars(keras.Model(name="bare")))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a pruned composite is made; in a class of its own, because Keras tracks and changes a layer's dictionaries.

    Attributes:
        plain: what Keras serialises of the plain layer.
        children: what the pruned form of each child takes beside the child's own configuration, by path.
    """

    plain: dict[str, Any]
    children: dict[str, dict]


class PrunedComposite(keras.layers.Layer):
    """Mixin in front of a layer or model class whose children are pruned; made by `harp_tf.prune`.

    The children become pruned layers where they are, once they are built: their variables and everything that
    refers to them stay, whatever the composite does with them. Its configuration is that of the plain layer, with
    what each pruned child needs to know beside it.
    """

    base_class: type[keras.layers.Layer]
    recipe: "Recipe"
    built: bool

    def _post_build(self) -> None:
        # Keras calls this at the end of every build, before it locks the layer.
        super()._post_build()
        self._prune_children()

    def build_from_config(self, config: dict) -> None:
        if not isinstance(self, keras.Model) and is_default(self.build):
            # The build that every layer has builds no children; Keras waits for the first call to do that.
            if "shapes_dict" in config:
                self._build_by_run_for_kwargs(config["shapes_dict"])
            else:
                self._build_by_run_for_single_pos_arg(config["input_shape"])
        super().build_from_config(config)
        if not self.built:  # a model, which has just been run, without a call of _post_build
            self._prune_children()
            self.built = True

    def _prune_children(self) -> None:
        children = dict(descendants(self))
        missing = [path for path in self.recipe.children if path not in children or not children[path].built]
        if missing:
            raise HarpError(
                f"A copy of {self.base_class.__name__} {self.name!r}, made from its get_config() and built, has no "
                f"layers with weights {', '.join(missing)}. Make all layers in the constructor, from arguments that "
                "get_config() returns, and build them in build(self, input_shape)."
            )
        for path, options in copy.deepcopy(self.recipe.children).items():
            child = children[path]
            if not isinstance(child, PrunedLayer):
                pruned_class(type(child)).adopt(child, **options)

    def get_config(self) -> dict:
        recipe = copy.deepcopy(vars(self.recipe))
        for path, child in descendants(self):
            if isinstance(child, PrunedLayer):  # its stage may have changed since the recipe was written
                recipe["children"][path]["pruning"] = child.pruning.as_dict()
        return {"name": self.name, "trainable": self.trainable, **recipe}

    @classmethod
    def from_config(cls, config: dict) -> "PrunedComposite":
        recipe = Recipe(copy.deepcopy(config["plain"]), copy.deepcopy(config["children"]))
        layer = keras.saving.deserialize_keras_object(config["plain"])
        # Constructors take what they like: a plain layer is made first, and turned before it is built.
        layer.__class__ = _composite_class(type(layer))  # type: ignore[arg-type]
        layer.recipe = recipe
        if layer.trainable != config["trainable"]:
            layer.trainable = config["trainable"]
        if layer.built:
            layer._prune_children()
        return layer


def pruned_composite(entry: dict, children: dict[str, dict], trainable: bool) -> dict:
    """The serialised pruned form of a layer or model.

    Args:
        entry: what Keras serialises of the plain one.
        children: what the pruned form of each child takes beside the child's configuration, by path.
        trainable: its `trainable`.

    Returns:
        `entry` with another class and configuration.
    """
    plain = {key: entry.get(key) for key in IDENTITY}
    config = {"name": entry["config"].get("name"), "trainable": trainable, "plain": plain, "children": children}
    return {**entry, **identity(PrunedComposite), "config": config}


def identity(cls: type) -> dict[str, str]:
    """By what Keras finds a class in a serialised layer."""
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "registered_name": keras.saving.get_registered_name(cls),
    }


@functools.cache
def _composite_class(base: type[keras.layers.Layer]) -> type[PrunedComposite]:
    members = {"base_class": base, "__doc__": f"{base.__name__} with pruned layers inside.", "__module__": __name__}
    made = type(f"Pruned{base.__name__}", (PrunedComposite, base), members)
    # All under one name, which a fresh process knows; the configuration says which class it is.
    return keras.saving.register_keras_serializable("harp_tf", "PrunedComposite")(made)


keras.saving.register_keras_serializable("harp_tf")(PrunedComposite)


def is_composite(layer: keras.layers.Layer) -> bool:
    """Whether the kernels of a layer are looked for in the layers that it holds.

    Not those of recurrent layers: they run their cells fused, past the cells' own calls and so past any mask.
    """
    if isinstance(layer, (PrunedLayer, keras.layers.RNN)) or kernels_of(type(layer)):
        return False
    return bool(layer._layers)


def descendants(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path below `layer`, layer) of all layers inside a composite layer or subclassed model.

    A layer goes by its name where somebody gave it one, else by the attribute or the position that holds it:
    automatic names differ from copy to copy. Layers that occur twice are yielded twice.
    """
    for part, child in _children(layer):
        yield f"{prefix}{part}", child
        if is_composite(child):
            yield from descendants(child, f"{prefix}{part}/")


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables of a layer without those of the layers that `descendants` finds in it."""
    if not is_composite(layer):
        return layer.variables
    inner = {id(v) for _, child in _children(layer) for v in child.variables}
    return [v for v in layer.variables if id(v) not in inner]


def _children(layer: keras.layers.Layer) -> list[tuple[str, keras.layers.Layer]]:
    own = layer.layers if isinstance(layer, keras.Model) else layer._layers
    children = [child for child in own if not isinstance(child, keras.layers.InputLayer)]
    names = [child.name for child in children]
    graph = isinstance(layer, (keras.Sequential, Functional))
    attributes = {} if graph else {id(child): path for path, child in reversed(list(_attributes(layer)))}
    parts = []
    for position, child in enumerate(children):
        given = not _is_automatic(child) and names.count(child.name) == 1
        parts.append(child.name if given else attributes.get(id(child), str(position)))
    return list(zip(parts, children, strict=True))


def _attributes(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    def inside(path: str, value: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
        if isinstance(value, keras.layers.Layer):
            yield path, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from inside(f"{path}/{key}", item)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                yield from inside(f"{path}/{i}", item)

    for name, value in vars(layer).items():
        if name not in _KERAS_ATTRIBUTES and not name.startswith("_self_"):  # TensorFlow's own
            yield from inside(name, value)


def _is_automatic(layer: keras.layers.Layer) -> bool:
    base = getattr(layer, "base_class", type(layer))
    return re.fullmatch(rf"{re.escape(to_snake_case(base.__name__))}(_\d+)?", layer.name) is not None
