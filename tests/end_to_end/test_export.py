"""python -m harp_tf.export on a finished run: phone kit, compact and quantised files, latency."""

import json
import re
import shutil

import pytest

from harp_tf import deploy

TFLITE = ["float32", "int8"]


@pytest.fixture(scope="module")
def run_dir(small_run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(small_run[0], copy)
    config = json.loads((copy / "config.json").read_text())
    config["flags"]["run_dir"] = str(copy)
    config["flags"]["robust_limit"] = 1000  # more than there are test images
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_a_phone_kit_of_the_compacted_model_with_latencies(run_dir, program):
    before = {path.name for path in run_dir.iterdir()}
    ended = program("export", f"--target={run_dir}", "--kit", "--compact", f"--forms={','.join(TFLITE)}", "--bench")
    assert ended.status == 0, ended.err
    assert {path.name for path in run_dir.iterdir()} - before == {"kit", "latency.json"}
    spec = json.loads((run_dir / "kit" / "spec.json").read_text())
    assert list(spec["models"]) == TFLITE and spec["output"]["labels"] == [str(digit) for digit in range(10)]
    results = json.loads((run_dir / "results.json").read_text())["pruned"]
    accuracy = spec["models"]["float32"]["accuracy"]
    assert accuracy["natural"] == pytest.approx(results["natural_accuracy"], abs=1e-6)
    assert accuracy["pgd3"] == pytest.approx(results["robust_accuracy"]["pgd3"], abs=0.02)
    dense = deploy.kernel_nonzeros(run_dir / "model.tflite")
    assert spec["models"]["float32"]["parameters"] < sum(kernel.weights for kernel in dense)
    rows = json.loads((run_dir / "latency.json").read_text())["rows"]
    names = {"kit/float32.tflite", "kit/int8.tflite", "model.tflite", "model_sparse.tflite"}
    assert {(row["name"], row["threads"]) for row in rows} == {(name, threads) for name in names for threads in (1, 2)}
    assert all(row["median_ms"] > 0 and row["litert_benchmark_ms"] is not None for row in rows)
    assert "threads  median ms" in ended.out
    assert "kit/int8.tflite" in (run_dir / "report.html").read_text()
    assert {"latency.png", "latency.svg"} <= {path.name for path in (run_dir / "plots").iterdir()}


def test_square_attacks_the_files_themselves(run_dir, program):
    options = ["--forms=float32,int8_weights_sparse", "--attacks=pgd3,square40", "--robust_limit=30"]
    ended = program("export", f"--target={run_dir}", "--kit", *options)
    assert ended.status == 0, ended.err
    spec = json.loads((run_dir / "kit" / "spec.json").read_text())
    name = "square40 on the file"
    assert re.match("30 images, .*each file itself .*queries 40", spec["accuracy_measured_on"][name])
    for model in spec["models"].values():
        assert set(model["accuracy"]) == {"natural", "pgd3", name}
    eps = json.loads((run_dir / "config.json").read_text())["flags"]["eps"]
    assert f"eps {eps}" in spec["accuracy_measured_on"][name]
    assert "square40 on the file" in (run_dir / "kit" / "README.md").read_text()


def test_one_keras_file_compacted_and_in_float16(run_dir, program, tmp_path):
    sizes = {}
    for name, options in {"plain": [], "small": ["--compact", "--quantize=float16"]}.items():
        path = tmp_path / f"{name}.tflite"
        ended = program("export", f"--target={run_dir / 'pruned.keras'}", f"--output={path}", *options)
        assert ended.status == 0, ended.err
        sizes[name] = path.stat().st_size
    assert sizes["small"] < sizes["plain"]


@pytest.mark.parametrize(
    ("file", "option", "message"),
    [
        ("", "--quantize=float16", "--quantize: for a .keras target; a run directory has its own file names; received"),
        ("pruned.keras", "--kit", "--kit: for a run directory, whose data a phone kit is measured on; received"),
        ("", "--compact", "--compact: for a .keras target or a phone kit .--kit.; received"),
        ("", "--forms=int4", "some of the forms float32, .*; received 'int4'"),
    ],
)
def test_flags_that_do_not_fit_the_target(run_dir, program, file, option, message):
    kit = ["--kit"] if "forms" in option else []
    ended = program("export", f"--target={run_dir / file}", option, *kit)
    assert re.search(message, ended.error)


def test_a_run_without_a_pruned_model_has_no_kit(run_dir, program, tmp_path):
    copy = tmp_path / "dense"
    shutil.copytree(run_dir, copy)
    (copy / "pruned.keras").unlink()
    assert "A phone kit is made of a pruned model" in program("export", f"--target={copy}", "--kit").error
