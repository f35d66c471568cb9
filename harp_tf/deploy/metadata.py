"""TFLite metadata: what goes into a classifier and what comes out, inside the file, where Android's tools look for it.

The description is a flatbuffer of its own, kept in a buffer of the model that is called TFLITE_METADATA. The labels are
a text file that a zip archive behind the model holds. Interpreters read neither.

Reference:
    "Adding metadata to TensorFlow Lite models", and the schema it describes, metadata_schema.fbs of tflite-support.
    The numbers of the fields below are its.
"""

import io
import zipfile
from collections.abc import Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types

from harp_tf.deploy.flatbuffer import Source, add_buffer, read_model, write_model

LABELS = "labels.txt"
"""Name of the file with one class per line, inside the model and beside it."""

_NAME = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
_OLDEST_READER = "1.0.0"
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes

_IMAGE, _FEATURES = 2, 1  # ContentProperties
_GREY, _RGB = 2, 1  # ColorSpaceType
_NORMALIZATION = 1  # ProcessUnitOptions
_AXIS_LABELS = 2  # AssociatedFileType


def add_metadata(source: Source, class_names: Sequence[str]) -> bytes:
    """Adds the description of a classifier of images in [0, 1], and its labels, to a .tflite file.

    Args:
        source: path or bytes of a .tflite file with one input and one output.
        class_names: one name per class.

    Returns:
        The bytes of the file, a few hundred more; a description that it had already is replaced.

    Raises:
        HarpError: if the file cannot be read or is not a TFLite file.
    """
    model = read_model(source)
    graph = model.subgraphs[0]
    image_shape = [int(size) for size in graph.tensors[graph.inputs[0]].shape[1:]]
    described = np.frombuffer(_description(image_shape), np.uint8)
    others = [entry for entry in model.metadata or [] if entry.name != _NAME]
    model.metadata = [*others, schema.MetadataT(name=_NAME, buffer=add_buffer(model, described))]
    file = io.BytesIO()
    file.write(write_model(model))
    with zipfile.ZipFile(file, "a") as archive:  # not compressed, which Android's reader asks for
        archive.writestr(zipfile.ZipInfo(LABELS, _FIXED_DATE), "\n".join(class_names) + "\n")
    return file.getvalue()


def _description(image_shape: list[int]) -> bytes:
    """The table ModelMetadata of a classifier of images, pixels / 255, to logits."""
    b = flatbuffers.Builder(1024)
    # What a reader does to a pixel of 0 to 255: subtract the mean, divide by the standard deviation.
    normalization = _table(b, 2, {0: _floats(b, 0.0), 1: _floats(b, 255.0)})
    unit = _table(b, 2, {1: normalization}, {0: (number_types.Uint8Flags, _NORMALIZATION)})
    stats = _table(b, 2, {0: _floats(b, 1.0), 1: _floats(b, 0.0)})
    image = _table(
        b,
        7,
        {
            0: b.CreateString("image"),
            1: b.CreateString("Pixels divided by 255; any further normalization is inside the model."),
            3: _content(b, image_shape),
            4: _vector(b, [unit]),
            5: stats,
        },
    )
    labels = _table(
        b,
        5,
        {0: b.CreateString(LABELS), 1: b.CreateString("One class per line.")},
        {2: (number_types.Int8Flags, _AXIS_LABELS)},
    )
    logits = _table(
        b,
        7,
        {
            0: b.CreateString("logits"),
            1: b.CreateString("One per class, the largest is the answer; softmax gives probabilities."),
            3: _table(b, 3, {1: _table(b, 0)}, {0: (number_types.Uint8Flags, _FEATURES)}),
            6: _vector(b, [labels]),
        },
    )
    graph = _table(b, 10, {2: _vector(b, [image]), 3: _vector(b, [logits])})
    model = _table(b, 8, {0: b.CreateString("classifier"), 3: _vector(b, [graph]), 7: b.CreateString(_OLDEST_READER)})
    b.Finish(model, _IDENTIFIER)
    return bytes(b.Output())


def _content(b: flatbuffers.Builder, image_shape: list[int]) -> int:
    """The table Content of the input: an image of a size and a colour space, or numbers."""
    if len(image_shape) != 3 or image_shape[-1] not in (1, 3):
        return _table(b, 3, {1: _table(b, 0)}, {0: (number_types.Uint8Flags, _FEATURES)})
    height, width, channels = image_shape
    size = _table(b, 2, {}, {0: (number_types.Uint32Flags, width), 1: (number_types.Uint32Flags, height)})
    color = (number_types.Int8Flags, _RGB if channels == 3 else _GREY)
    return _table(b, 3, {1: _table(b, 2, {1: size}, {0: color})}, {0: (number_types.Uint8Flags, _IMAGE)})


def _table(
    b: flatbuffers.Builder,
    fields: int,
    references: dict[int, int] | None = None,
    scalars: dict[int, tuple] | None = None,
) -> int:
    """Writes a table.

    Args:
        b: the builder.
        fields: number of fields in the schema.
        references: field -> what was written before: strings, vectors, tables.
        scalars: field -> (number type, value).

    Returns:
        Where it is, for `references` of others.
    """
    b.StartObject(fields)
    for field, place in (references or {}).items():
        b.PrependUOffsetTRelativeSlot(field, place, 0)
    for field, (kind, value) in (scalars or {}).items():
        b.PrependSlot(kind, field, value, 0)
    return b.EndObject()


def _vector(b: flatbuffers.Builder, places: Sequence[int]) -> int:
    b.StartVector(4, len(places), 4)
    for place in reversed(places):
        b.PrependUOffsetTRelative(place)
    return b.EndVector()


def _floats(b: flatbuffers.Builder, *values: float) -> int:
    return b.CreateNumpyVector(np.array(values, np.float32))
