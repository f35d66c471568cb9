"""What a .keras file may hold: checked before Keras reads it, because a model from elsewhere is not trusted.

Keras' safe mode keeps Python code in a file from being run. It still imports what a file names, lets a file name layers
that read other files, and allocates whatever sizes a file states.
"""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from harp_tf.reading import is_bomb, parse_json

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_ROOMS = (
    "activations constraints dtype_policies initializers layers losses metrics models ops optimizers quantizers "
    "random regularizers"
).split()
_MODULES = {"keras", *(f"keras.{room}" for room in _ROOMS)}
_SOURCES = tuple(f"keras.src.{room}." for room in _ROOMS)
_FUNCTIONS = ("keras.activations", "keras.src.activations.", "keras.initializers", "keras.ops", "keras.src.ops.")
_PACKAGES = ("keras_hub", "keras_cv", "keras_nlp")
_REFUSED = {
    "__lambda__": "runs code out of the file",
    "__typespec__": "is no part of an image classifier",
    "Lambda": "runs code out of the file",
    "TFSMLayer": "reads another file",
    "TorchModuleWrapper": "runs code out of the file",
    "JaxLayer": "runs code out of the file",
    "FlaxLayer": "runs code out of the file",
    "StringLookup": "reads another file",
    "IntegerLookup": "reads another file",
    "TextVectorization": "reads another file",
    "FeatureSpace": "is no part of an image classifier",
}


def check(path: Path) -> int:
    """Reads a .keras file without making anything of it.

    Args:
        path: the file.

    Returns:
        The number of weights in it.

    Raises:
        ValueError: if it is damaged, refers to other files, or names code rather than layers.
        OSError: if it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) < len(names) or not {_CONFIG, _WEIGHTS} <= set(names) <= {_CONFIG, _METADATA, _WEIGHTS}:
            raise ValueError(f"expected {_CONFIG}, {_METADATA} and {_WEIGHTS} in it, received {names[:5]}")
        _refuse_bomb(sum(member.file_size for member in members), path.stat().st_size)
        # Read to the end, where zipfile compares the checksum.
        content = {member.filename: archive.read(member) for member in members}
    _check_config(parse_json(content[_CONFIG].decode("utf-8")))
    return _check_weights(content[_WEIGHTS])


@contextlib.contextmanager
def at_most(weights: int) -> Iterator[None]:
    """While a model is made of its configuration: refuses, unallocated, what a file of `weights` cannot fill.

    Args:
        weights: number of weights in the file.
    """
    add_weight = keras.layers.Layer.add_weight
    left = 2 * weights + 2**20

    def counted(layer, shape=None, *args, **kwargs):
        nonlocal left
        left -= math.prod(size or 1 for size in shape or ())
        if left < 0:
            raise ValueError(f"its configuration is of a larger model than its {weights:,} weights")
        return add_weight(layer, shape, *args, **kwargs)

    keras.layers.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight


def _refuse_bomb(announced: int, stored: int) -> None:
    if is_bomb(stored, announced):  # Keras does not compress
        raise ValueError(f"it announces {announced:,} bytes and has {stored:,}")


def _check_config(config: Any) -> None:
    """Walks the configuration, without recursion: Python's own limit is for honest files."""
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise ValueError(f"its {_CONFIG} describes no model")
    left = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                _check_object(value)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _check_object(entry: dict[str, Any]) -> None:
    name, module = entry["class_name"], entry.get("module")
    if not isinstance(name, str) or not isinstance(module, (str, type(None))):
        raise ValueError("its configuration names a class by something else than a text")
    if name in _REFUSED:
        raise ValueError(f"{name} layers are refused: {name} {_REFUSED[name]}")
    package = (module or "").partition(".")[0]
    if name == "function" and package != "keras":
        allowed = package not in _PACKAGES  # "builtins" is what Keras says of its own, else it must be registered
    elif name == "function":
        allowed = module in _FUNCTIONS or str(module).startswith(_FUNCTIONS)
    else:
        allowed = package not in ("keras", *_PACKAGES) or module in _MODULES or str(module).startswith(_SOURCES)
    if not allowed:
        raise ValueError(f"its configuration names {module}.{name}, which is no layer or function of layers")


def _check_weights(data: bytes) -> int:
    """Number of values in HDF5 data that refer to nothing outside, and are not more than they pretend."""
    with h5py.File(io.BytesIO(data), "r") as file:
        seen: set[int] = set()
        left: list[h5py.Group] = [file]
        values = 0
        while left:
            group = left.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"its weights contain a {type(link).__name__} to elsewhere")
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    continue
                seen.add(address)
                if isinstance(item, h5py.Group):
                    left.append(item)
                elif not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
                    raise ValueError(f"its weights refer to another file in {item.name!r}")
                else:
                    _refuse_bomb(item.size * item.dtype.itemsize, len(data))
                    values += item.size
        return values
