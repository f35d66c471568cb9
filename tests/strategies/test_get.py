import json

import pytest

from harp_tf import strategies
from harp_tf.types import HarpError


def test_names():
    assert strategies.get("uniform") is strategies.uniform
    assert strategies.get("erk") is strategies.erk
    assert strategies.get("igq") is strategies.igq
    assert strategies.get("lamp") is strategies.lamp


def test_functions_pass_through():
    def own(kernels, rate):
        return {}

    assert strategies.get(own) is own


def test_paths_of_json_files(tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"a/kernel": 0.5}))
    for given in (path, str(path)):
        assert callable(strategies.get(given))


@pytest.mark.parametrize("strategy", ["Uniform", "rates.txt", "", None, 3, {"conv/kernel": 0.5}, ["uniform"]])
def test_anything_else(strategy):
    with pytest.raises(HarpError, match="strategy must be one of uniform, erk, igq, lamp, the path of a .json file"):
        strategies.get(strategy)
