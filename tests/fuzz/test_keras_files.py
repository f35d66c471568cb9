"""Whatever a .keras file holds, a sound model comes out of it or it is refused; nothing in it is run or followed."""

import io
import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

from harp_tf import models
from tests.fuzz.limits import amounts, fuzz, outcome, refused
from tests.fuzz.mutations import NAMES, NUMBERS, altered, damaged, json_text
from tests.runs import tiny_model

SHAPE = (8, 8, 1)
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
SECONDS = 60


def packed(members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("valid") / "m.keras"
    tiny_model().save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def functional(tmp_path_factory) -> dict[str, bytes]:
    """A model with a branch, a shared layer, a nested model and an operation."""
    path = tmp_path_factory.mktemp("functional") / "m.keras"
    image = keras.Input(SHAPE)
    shared = keras.layers.Conv2D(2, 3, padding="same", activation="relu")
    nested = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Flatten(), keras.layers.Dense(10)])
    x = shared(image)
    keras.Model(image, nested(keras.ops.concatenate([x[..., :1], x[..., 1:]], axis=-1) + x)).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read(folder, content: bytes):
    (folder / "m.keras").write_bytes(content)
    model, _ = models.load_or_build(str(folder / "m.keras"), SHAPE, 10)
    assert model.output_shape == (None, 10)
    keras.backend.clear_session(free_memory=False)
    return model


def test_the_valid_files_are_read(folder, valid, functional):
    for members in (valid, functional):
        read(folder, packed(members))
        read(folder, packed(members, zipfile.ZIP_DEFLATED))


@amounts(40, 800)
def test_damaged_bytes_of_the_file(folder, valid, examples):
    content = packed(valid)

    def holds(data):
        if data != content:
            outcome(lambda: read(folder, data), SECONDS)

    fuzz(examples, holds, damaged(content))


def test_cut_anywhere(folder, valid):
    content = packed(valid)
    for length in range(0, len(content), 997):
        refused(lambda: read(folder, content[:length]))


def test_a_damaged_weight_is_no_weight(folder, valid):
    content, weights = packed(valid), valid[WEIGHTS]
    start = content.index(weights)
    for at in range(0, len(weights), len(weights) // 40):
        data = bytearray(content)
        data[start + at] ^= 64
        assert "CRC" in refused(lambda: read(folder, bytes(data)))


@amounts(10, 300)
def test_damaged_weights_with_the_right_checksum(folder, valid, examples):
    fuzz(
        examples,
        lambda data: outcome(lambda: read(folder, packed({**valid, WEIGHTS: data})), SECONDS),
        damaged(valid[WEIGHTS]),
    )


@amounts(10, 250)
def test_altered_configurations(folder, valid, functional, examples):
    values = st.sampled_from(NUMBERS) | st.sampled_from(
        ["relu", "softmax", "float16", "int32", "same", "channels_first", "lecun"]
    )
    for members in (valid, functional):
        tree = json.loads(members[CONFIG])
        fuzz(
            examples,
            lambda other: outcome(lambda: read(folder, packed({**members, CONFIG: json_text(other)})), SECONDS),
            altered(tree, values),
        )


@amounts(20, 300)
def test_damaged_bytes_of_the_configuration(folder, functional, examples):
    def holds(data):
        outcome(lambda: read(folder, packed({**functional, CONFIG: data})), SECONDS)

    fuzz(examples, holds, damaged(functional[CONFIG]))


@amounts(10, 100)
def test_members_of_other_names(folder, outside, valid, examples):
    places = st.sampled_from(
        ["../outside/new", str(outside / "new"), "assets/../../outside/new", "assets/x", "..\\new"]
    )

    def holds(name, gone):
        members = {key: content for key, content in valid.items() if key != gone}
        read_or_not = outcome(lambda: read(folder, packed({**members, name: b"something"})), SECONDS)
        assert isinstance(read_or_not, ValueError)
        assert os.listdir(outside) == ["secret.txt"]

    fuzz(
        examples, holds, places | NAMES.filter(lambda name: name and name.isprintable()), st.sampled_from(["", *valid])
    )


def layer(name, module="keras.layers", registered=None, **config):
    return {"module": module, "class_name": name, "config": {"name": "added", **config}, "registered_name": registered}


def function(name, module):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def with_layer(members, added) -> bytes:
    tree = json.loads(members[CONFIG])
    tree["config"]["layers"].insert(3, added)
    return packed({**members, CONFIG: json_text(tree)})


def lambda_layers(outside):
    code = keras.layers.Lambda(lambda x: x).get_config()["function"]
    yield layer("Lambda", function=code)
    for module, name in (
        ("os", "mkdir"),
        ("builtins", "exec"),
        ("keras.utils", "get_file"),
        ("keras.models", "load_model"),
    ):
        yield layer("Lambda", function=function(name, module), arguments={"path": str(outside / "ran")})
    yield layer("Lambda", function=function("plot_model", "keras.utils"), arguments={"to_file": str(outside / "ran")})


def strangers(outside):
    for module, name in (
        ("os", "system"),
        ("builtins", "exec"),
        ("builtins", "open"),
        ("subprocess", "Popen"),
        ("importlib", "import_module"),
        ("keras.src.utils.file_utils", "get_file"),
        ("keras.src.saving.saving_lib", "load_model"),
        ("keras.src.legacy.saving.legacy_h5_format", "load_model_from_hdf5"),
        ("keras.utils", "plot_model"),
        ("keras.applications", "VGG16"),
        ("keras.datasets.mnist", "load_data"),
        ("keras.callbacks", "CSVLogger"),
        ("keras_hub.models", "Backbone"),
        ("tests.runs", "tiny_model"),
        ("", "system"),
    ):
        for registered in (None, name, f"{module}>{name}", "harp_tf>Nothing"):
            yield layer(name, module, registered, path=str(outside / "ran"), filename=str(outside / "ran"))
            yield layer("Activation", activation={"module": module, "class_name": name, "config": {}})
        yield layer("Activation", activation=function(name, module))
        yield layer("Dense", units=4, kernel_initializer=function(name, module))


def readers(outside):
    secret = str(outside / "secret.txt")
    yield layer("StringLookup", vocabulary=secret)
    yield layer("IntegerLookup", vocabulary=secret)
    yield layer("TextVectorization", vocabulary=secret)
    yield layer("TFSMLayer", "keras.export", filepath=str(outside))
    yield layer("TFSMLayer", filepath=str(outside))
    yield layer("TorchModuleWrapper", module=secret)
    yield layer("JaxLayer", call_fn=function("system", "os"))
    yield {"class_name": "__typespec__", "module": "os", "spec_name": "system", "registered_name": None, "config": []}
    yield {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}


@pytest.mark.parametrize("kind", [lambda_layers, strangers, readers])
def test_code_and_other_files_are_refused(folder, outside, valid, kind):
    for added in kind(outside):
        message = refused(lambda: read(folder, with_layer(valid, added)))
        assert "could not be read" in message, added
    assert os.listdir(outside) == ["secret.txt"]


@pytest.mark.parametrize(
    "added",
    [
        layer("Dense", units=10**12),
        layer("Dense", units=2**31),
        layer("Conv2D", filters=2**20, kernel_size=[999, 999], padding="same"),
        layer("Embedding", input_dim=10**10, output_dim=10**3),
        layer("ZeroPadding2D", padding=20_000),
        layer("UpSampling2D", size=[10_000, 10_000]),
    ],
    ids=lambda added: added["class_name"],
)
def test_sizes_that_would_fill_the_memory(folder, valid, added):
    pooled = layer("GlobalAveragePooling2D", data_format="channels_last", keepdims=True)
    tree = json.loads(valid[CONFIG])
    tree["config"]["layers"][3:3] = [added, {**pooled, "config": {**pooled["config"], "name": "pooled"}}]
    refused(lambda: read(folder, packed({**valid, CONFIG: json_text(tree)})))


def changed(weights: bytes, change) -> bytes:
    buffer = io.BytesIO(weights)
    with h5py.File(buffer, "r+") as file:
        change(file)
    return buffer.getvalue()


def test_weights_that_refer_to_other_files(folder, outside, valid):
    with h5py.File(outside / "other.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.ones((3, 3, 1, 8), np.float32)
    os.mkfifo(outside / "pipe")
    place = "layers/conv2d/vars/0"

    def external_link(file, name="other.h5", target=place):
        del file[target]
        file[target] = h5py.ExternalLink(str(outside / name), f"/{place}")

    def soft_link(file):
        file["x"] = h5py.SoftLink(f"/{place}")

    def external_data(file):
        del file[place]
        file.create_dataset(place, (3, 3, 1, 8), np.float32, external=[(str(outside / "other.h5"), 0, 288)])

    def virtual_data(file):
        del file[place]
        layout = h5py.VirtualLayout((3, 3, 1, 8), np.float32)
        layout[:] = h5py.VirtualSource(outside / "other.h5", place, (3, 3, 1, 8))
        file.create_virtual_dataset(place, layout)

    def to_a_pipe(file):
        external_link(file, "pipe", "layers/conv2d")

    for change in (external_link, soft_link, external_data, virtual_data, to_a_pipe):
        message = refused(lambda: read(folder, packed({**valid, WEIGHTS: changed(valid[WEIGHTS], change)})))
        assert "elsewhere" in message or "another file" in message


def test_weights_that_are_not_what_the_model_needs(folder, valid):
    place = "layers/conv2d/vars/0"

    def replaced(array=None, **settings):
        def change(file):
            del file[place]
            if array is not None or settings:
                file.create_dataset(place, data=array, **settings)

        return change

    def circle(file):
        file["layers/conv2d/again"] = file["layers"]

    bomb = {"shape": (2**40,), "dtype": np.float32, "chunks": (2**20,), "compression": "gzip"}
    for change in (
        replaced(),
        replaced(np.ones((3, 3, 1, 7), np.float32)),
        replaced(np.array(b"text")),
        replaced(**bomb),
        replaced(h5py.Empty("f")),
    ):
        refused(lambda: read(folder, packed({**valid, WEIGHTS: changed(valid[WEIGHTS], change)})))
    read(folder, packed({**valid, WEIGHTS: changed(valid[WEIGHTS], circle)}))  # harmless: nothing goes that way


@pytest.mark.parametrize("opening", [b"[", b'{"config":', b'{"class_name":"Sequential","module":"keras","config":'])
def test_deep_nesting(folder, valid, opening):
    for depth in (500, 20_000):
        content = opening * depth
        refused(lambda: read(folder, packed({**valid, CONFIG: content})))
        closed = content + b"{}" + (b"]" if opening == b"[" else b"}") * depth
        refused(lambda: read(folder, packed({**valid, CONFIG: closed})))


def test_a_decompression_bomb(folder, valid):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("metadata.json", valid["metadata.json"])
        archive.writestr(WEIGHTS, valid[WEIGHTS])
        with archive.open(CONFIG, "w", force_zip64=True) as member:
            for _ in range(1280):
                member.write(b" " * 2**20)
    assert "announces" in refused(lambda: read(folder, buffer.getvalue()))


def test_what_is_no_file(folder):
    path = folder / "m.keras"
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        make(path)
        assert "There is no model file" in refused(lambda: models.load(path))
        path.rmdir() if path.is_dir() else path.unlink()
    for name in ("a\0b.keras", "x" * 300 + ".keras", "\udcff.keras", "hf://x/y.keras"):
        refused(lambda: models.load(name))
