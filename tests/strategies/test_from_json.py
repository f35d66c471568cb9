import json
import os

import numpy as np
import pytest

from harp_tf.strategies import KernelInfo, from_json
from harp_tf.types import HarpError

KERNELS = [KernelInfo("conv/kernel", np.zeros((3, 3))), KernelInfo("dense/kernel", np.zeros(4))]


def write(folder, content):
    path = folder / "rates.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_rates_by_path(tmp_path):
    path = write(tmp_path, {"dense/kernel": 1, "conv/kernel": 0.25})
    assert from_json(path)(KERNELS, 0.9) == {"conv/kernel": 0.25, "dense/kernel": 1.0}
    assert from_json(str(path))(KERNELS, 0.1) == {"conv/kernel": 0.25, "dense/kernel": 1.0}


def test_the_rates_file_of_a_run(tmp_path):
    rows = {
        "conv/kernel": {"weights": 9, "kept": 3, "rate": 0.3},
        "dense/kernel": {"weights": 4, "kept": 1, "rate": 0.05},
    }
    content = {"target_sparsity": 0.9, "strategy": "uniform", "weights": 13, "kept": 4, "layers": rows}
    assert from_json(write(tmp_path, content))(KERNELS, 0.1) == {"conv/kernel": 0.3, "dense/kernel": 0.05}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Cannot read the rates file .*rates.json"),
        ("", "Cannot read the rates file"),
        ("[" * 100_000, "Cannot read the rates file"),
        ([0.1, 0.2], "must be a JSON object"),
        ({}, "must be a JSON object"),
        ({"layers": [0.1]}, "must be a JSON object"),
        ({"conv/kernel": 0.0}, r"rate of 'conv/kernel' must be in \(0, 1\], received 0.0"),
        ({"conv/kernel": 1.5}, "received 1.5"),
        ({"conv/kernel": -0.1}, "received -0.1"),
        ({"conv/kernel": True}, "received True"),
        ({"conv/kernel": "0.1"}, "received '0.1'"),
        ({"conv/kernel": None}, "received None"),
        ('{"conv/kernel": NaN}', "received nan"),
        ({"layers": {"conv/kernel": {"weights": 9}}}, "received None"),
    ],
)
def test_a_file_without_rates(tmp_path, content, message):
    with pytest.raises(HarpError, match=message):
        from_json(write(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(HarpError, match="Cannot read the rates file .*missing.json.*No such file"):
        from_json(tmp_path / "missing.json")
    with pytest.raises(HarpError, match="Cannot read the rates file .*Is a directory"):
        from_json(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"caf\xe9": 1}')
    with pytest.raises(HarpError, match="Cannot read the rates file .*latin.json.*utf-8"):
        from_json(tmp_path / "latin.json")


def test_a_file_of_another_model(tmp_path):
    path = write(tmp_path, {"conv/kernel": 0.5, "head/kernel": 0.5})
    with pytest.raises(HarpError, match=r"no rate for \['dense/kernel'\], unknown layers \['head/kernel'\]"):
        from_json(path)(KERNELS, 0.1)


def test_a_name_that_is_there_twice(tmp_path):
    with pytest.raises(HarpError, match="the name 'conv/kernel' is there twice"):
        from_json(write(tmp_path, '{"conv/kernel": 0.5, "dense/kernel": 0.1, "conv/kernel": 0.1}'))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rates.json")
    with pytest.raises(HarpError, match="Cannot read the rates file .*Not a regular file"):
        from_json(tmp_path / "rates.json")
