import io
import json
import zipfile

import h5py
import keras
import pytest

from harp_tf.models import archive
from tests.runs import WEIGHTS, tiny_model


@pytest.fixture
def members(tiny_file) -> dict[str, bytes]:
    with zipfile.ZipFile(tiny_file) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture
def check(tmp_path):
    def run(members: dict[str, bytes]) -> int:
        path = tmp_path / "m.keras"
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        return archive.check(path)

    return run


def with_layer(members, **layer):
    tree = json.loads(members["config.json"])
    tree["config"]["layers"].append({"module": "keras.layers", "config": {}, "registered_name": None, **layer})
    return {**members, "config.json": json.dumps(tree).encode()}


def test_the_number_of_weights(check, members):
    others = 4 * 8 + 16 + 10  # of the batch normalisation, and biases
    assert check(members) == WEIGHTS + others


@pytest.mark.parametrize("name", ["Lambda", "TFSMLayer", "StringLookup", "__lambda__"])
def test_layers_that_run_code_or_read_files(check, members, name):
    with pytest.raises(ValueError, match=f"{name} layers are refused"):
        check(with_layer(members, class_name=name))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.utils", "get_file"),
        ("keras.src.utils.file_utils", "get_file"),
        ("keras_hub.models", "X"),
        ("keras.utils", "function"),
        ("keras.applications", "VGG16"),
    ],
)
def test_what_is_no_layer(check, members, module, name):
    with pytest.raises(ValueError, match="which is no layer or function of layers"):
        check(with_layer(members, class_name=name, module=module, config="get_file"))


def test_classes_of_the_users_own_are_left_to_keras(check, members):
    check(with_layer(members, class_name="Mine", module="my.layers", registered_name="my>Mine"))
    check(with_layer(members, class_name="Add", module="keras.src.ops.numpy"))


@pytest.mark.parametrize("name", ["assets/words.txt", "../x", "model.weights.npz"])
def test_other_members(check, members, name):
    with pytest.raises(ValueError, match="expected config.json"):
        check({**members, name: b""})


def test_a_changed_weight_is_noticed(tmp_path, tiny_file):
    data = bytearray(tiny_file.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "m.keras").write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        archive.check(tmp_path / "m.keras")


def test_links_out_of_the_weights(check, members, tmp_path):
    buffer = io.BytesIO(members["model.weights.h5"])
    with h5py.File(buffer, "r+") as file:
        file["layers/x"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    with pytest.raises(ValueError, match="ExternalLink to elsewhere"):
        check({**members, "model.weights.h5": buffer.getvalue()})


def test_a_larger_model_than_its_weights_is_not_built():
    config = tiny_model().get_config()
    config["layers"][-1]["config"]["units"] = 10**12
    with pytest.raises(ValueError, match="of a larger model than its 1,000 weights"), archive.at_most(1000):
        keras.Sequential.from_config(config)
    before = keras.layers.Layer.add_weight
    with archive.at_most(1000):
        tiny_model()
    assert keras.layers.Layer.add_weight is before
