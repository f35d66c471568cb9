"""`export` on its own: of a run directory and of files."""

import os
import shutil

import pytest

from harp_tf import deploy
from tests.runs import contents, counts, read

pytestmark = pytest.mark.usefixtures("no_plots")


def test_export_gives_the_same_files_again(program, copy):
    before = contents(copy)
    for name in ("model.tflite", "model_sparse.tflite"):
        (copy / name).unlink()
    ended = program("export", f"--target={copy}")
    assert ended.status == 0, ended.err
    after = contents(copy)
    assert {name for name in before if before[name] != after[name]} <= {"report.html"}
    assert ended.out.count("of the Keras model") == 2


def test_export_a_run_without_models(program, copy):
    for path in copy.glob("*.keras"):
        path.unlink()
    for name in ("export", "evaluate"):
        assert "neither dense.keras nor pruned.keras" in program(name, f"--target={copy}").error


def test_export_strips_a_file_with_scores(program, small_run, tmp_path):
    path = shutil.copy(small_run[0] / "scored.keras", tmp_path)
    ended = program("export", f"--target={path}")
    assert ended.status == 0, ended.err
    kept = counts(read(small_run[0] / "rates.json"))
    written = tmp_path / "scored.tflite"
    assert {kernel.name: kernel.nonzero for kernel in deploy.kernel_nonzeros(written)} == kept
    assert str(written) in ended.out
    assert sorted(os.listdir(tmp_path)) == ["scored.keras", "scored.tflite"]


def test_export_where_and_how(program, small_run, tmp_path):
    pruned = small_run[0] / "pruned.keras"
    dense = tmp_path / "dense.tflite"
    assert program("export", f"--target={pruned}", f"--output={dense}", "--nosparse").status == 0
    assert not any(kernel.sparse for kernel in deploy.kernel_nonzeros(dense))
    sparse = tmp_path / "sparse.tflite"
    assert program("export", f"--target={pruned}", f"--output={sparse}").status == 0
    assert any(kernel.sparse for kernel in deploy.kernel_nonzeros(sparse))
    assert sparse.stat().st_size < dense.stat().st_size
    assert "existing folder" in program("export", f"--target={pruned}", f"--output={tmp_path}/no/x.tflite").error
    (tmp_path / "bad.keras").write_bytes(b"no")
    assert "could not be read as a Keras 3 model" in program("export", f"--target={tmp_path / 'bad.keras'}").error
    assert not (tmp_path / "bad.tflite").exists()
