"""TFLite metadata, read back by field numbers of the public schema.

The official reader, tflite-support 0.4.4, shows what is expected here, and its ImageClassifier gives our logits and
labels for pixels from 0 to 255. It needs an older NumPy than this library, so that it cannot run here.
"""

import io
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table
from keras import layers

from harp_tf.deploy import TFLiteClassifier, kernel_nonzeros, to_tflite
from harp_tf.deploy.flatbuffer import read_model
from harp_tf.deploy.metadata import add_metadata
from harp_tf.types import HarpError

NAMES = ["T-shirt", "trouser", "größer"]


def convert(*shape: int) -> bytes:
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(3)])
    return to_tflite(model)


def described(data: bytes) -> Table:
    """The root table of the only buffer called TFLITE_METADATA."""
    model = read_model(data)
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    buffer = bytearray(model.buffers[entry.buffer].data.tobytes())
    assert buffer[4:8] == b"M001"
    return Table(buffer, flatbuffers.encode.Get(flatbuffers.packer.uoffset, buffer, 0))


def place(table: Table, field: int) -> int:
    offset = table.Offset(4 + 2 * field)
    assert offset, f"field {field} is missing"
    return table.Pos + offset


def text(table: Table, field: int) -> str:
    return table.String(place(table, field)).decode()


def child(table: Table, field: int) -> Table:
    return Table(table.Bytes, table.Indirect(place(table, field)))


def only(table: Table, field: int) -> Table:
    """The only table of a vector of tables."""
    offset = table.Offset(4 + 2 * field)
    assert table.VectorLen(offset) == 1
    return Table(table.Bytes, table.Indirect(table.Vector(offset)))


def number(table: Table, field: int, kind) -> int:
    return table.Get(kind, place(table, field))


def floats(table: Table, field: int) -> list[float]:
    return table.GetVectorAsNumpy(number_types.Float32Flags, table.Offset(4 + 2 * field)).tolist()


@pytest.mark.parametrize(("channels", "color"), [(3, 1), (1, 2)])
def test_input_and_output_are_described(channels, color):
    model = described(add_metadata(convert(6, 4, channels), NAMES))
    assert text(model, 7) == "1.0.0"
    graph = only(model, 3)
    image, logits = only(graph, 2), only(graph, 3)
    assert (text(image, 0), text(logits, 0)) == ("image", "logits")
    content = child(image, 3)
    assert number(content, 0, number_types.Uint8Flags) == 2  # ImageProperties
    assert number(child(content, 1), 0, number_types.Int8Flags) == color
    size = child(child(content, 1), 1)
    assert [number(size, field, number_types.Uint32Flags) for field in (0, 1)] == [4, 6]  # width, height
    unit = only(image, 4)
    assert number(unit, 0, number_types.Uint8Flags) == 1  # NormalizationOptions: (pixel - mean) / deviation
    assert (floats(child(unit, 1), 0), floats(child(unit, 1), 1)) == ([0.0], [255.0])
    assert (floats(child(image, 5), 0), floats(child(image, 5), 1)) == ([1.0], [0.0])  # largest, smallest
    labels = only(logits, 6)
    assert text(labels, 0) == "labels.txt" and number(labels, 2, number_types.Int8Flags) == 2  # TENSOR_AXIS_LABELS


def test_other_inputs_are_numbers():
    model = described(add_metadata(convert(7), NAMES))
    assert number(child(only(only(model, 3), 2), 3), 0, number_types.Uint8Flags) == 1  # FeatureProperties


def test_the_labels_are_in_the_file():
    with zipfile.ZipFile(io.BytesIO(add_metadata(convert(6, 4, 3), NAMES))) as archive:
        (entry,) = archive.infolist()
        assert entry.filename == "labels.txt" and entry.compress_type == zipfile.ZIP_STORED
        assert archive.read(entry).decode() == "T-shirt\ntrouser\ngrößer\n"


def test_the_file_computes_the_same_and_is_written_once(small):
    for data in (small.dense, small.sparse):
        described_file = add_metadata(data, NAMES)
        assert add_metadata(data, NAMES) == described_file and len(described_file) < len(data) + 1500
        assert kernel_nonzeros(described_file) == kernel_nonzeros(data)
        for xnnpack in (True, False):
            logits = TFLiteClassifier(described_file, xnnpack=xnnpack).logits(small.images)
            np.testing.assert_array_equal(logits, TFLiteClassifier(data, xnnpack=xnnpack).logits(small.images))
    again = add_metadata(described_file, ["a", "b", "c"])
    described(again)  # one description
    assert zipfile.ZipFile(io.BytesIO(again)).read("labels.txt") == b"a\nb\nc\n"


def test_what_is_no_model_is_refused():
    with pytest.raises(HarpError, match="Expected a TFLite file"):
        add_metadata(b"nothing of that kind", NAMES)
