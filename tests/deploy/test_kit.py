"""The phone kit and the forms in it."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import export_tflite, kit, kit_check
from harp_tf.deploy.inspect import memory_bytes
from harp_tf.deploy.kit import check_kit, write_kit
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.deploy.variants import FORMS, Trial, export_variants
from harp_tf.types import HarpError


@pytest.fixture(scope="module")
def sets(small):
    images = np.random.default_rng(3).random((40, 12, 12, 3), np.float32)
    labels = small.model(images, training=False).numpy().argmax(-1)
    return {"natural": (images, labels), "wrong": (images[:20], (labels[:20] + 1) % 10)}


def write(small, folder, sets, **changes):
    arguments = {"class_names": [f"class {i}" for i in range(10)], "forms": ["float32", "float16_sparse", "int8"]}
    arguments |= {"calibration": sets["natural"][0], **changes}
    return write_kit(small.model, folder, image_sets=sets, **arguments)


@pytest.mark.slow
def test_the_kit_is_complete_and_checks_itself_in_another_process(small, sets, tmp_path):
    lines = []
    variants = write(small, tmp_path / "kit", sets, progress=lines.append)
    files = {str(p.relative_to(tmp_path / "kit")) for p in (tmp_path / "kit").rglob("*") if p.is_file()}
    models = {"float32", "float16_sparse", "int8"}
    expected = {"README.md", "labels.txt", "spec.json", "check.py", "golden/inputs.f32"}
    assert files == expected | {f"{m}.tflite" for m in models} | {f"golden/{m}.f32" for m in models}
    assert [v.name for v in variants] == ["float32", "float16_sparse", "int8"] and len(lines) == 3
    assert variants[0].accuracy == {"natural": 1.0, "wrong": 0.0}
    assert all(v.report.path.exists() for v in variants)
    assert variants[0].logit_difference < 1e-5 < variants[1].logit_difference < variants[2].logit_difference
    done = subprocess.run(
        [sys.executable, "check.py"], cwd=tmp_path / "kit", capture_output=True, text=True, env={"PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as recorded") == 3
    for name in models:
        with zipfile.ZipFile(tmp_path / "kit" / f"{name}.tflite") as archive:
            assert archive.read("labels.txt") == (tmp_path / "kit" / "labels.txt").read_bytes()
    readme = (tmp_path / "kit" / "README.md").read_text()
    assert "natural, 40 images; wrong, 20 images" in readme
    assert f"| float16_sparse.tflite | {variants[1].report.parameters:,} |" in readme
    assert "FloatArray(labels.size)" in readme and "allocateDirect(4 * 432)" in readme


def test_the_check_finds_a_model_that_computes_something_else(small, sets, tmp_path, capsys):
    write(small, tmp_path / "kit", sets, forms=["float32"])
    golden = tmp_path / "kit" / "golden" / "float32.f32"
    logits = np.fromfile(golden, "<f4")
    logits[3] += 0.1 * logits.std() + 0.1
    logits.tofile(golden)
    assert not kit_check.check(tmp_path / "kit")
    assert "WRONG" in capsys.readouterr().out


def test_a_kit_is_replaced_and_other_folders_are_not(small, sets, tmp_path):
    folder = tmp_path / "kit"
    write(small, folder, sets)
    write(small, folder, sets, forms=["float32"])
    assert not (folder / "int8.tflite").exists()
    assert list(json.loads((folder / "spec.json").read_text())["models"]) == ["float32"]
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(HarpError, match="a new folder or an earlier phone kit"):
        write(small, other, sets)
    assert (other / "cat.jpg").exists()


def test_nothing_is_left_of_a_kit_that_fails(small, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(kit.kit_check, "check", lambda folder: False)
    with pytest.raises(HarpError, match="does not pass its own check"):
        write(small, tmp_path / "kit", sets, forms=["float32"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["a", "b"]}, "one name per class, received .* 2 names for 10 classes"),
        ({"class_names": ["a\nb", *"bcdefghij"]}, "different printable texts"),
        ({"forms": ["int4"]}, "some of the forms float32, .*received 'int4'"),
    ],
)
def test_wrong_arguments_are_refused(small, sets, tmp_path, changes, message):
    with pytest.raises(HarpError, match=message):
        write(small, tmp_path / "kit", sets, **changes)
    with pytest.raises(HarpError, match="Create its parent"):
        write(small, tmp_path / "no" / "kit", sets)


def test_data_that_the_figures_would_be_wrong_of_are_refused(small, sets, tmp_path):
    ((name, (images, labels)), *_) = sets.items()

    def written(images=images, labels=labels, calibration=images):
        return write_kit(small.model, tmp_path / "kit", list("abcdefghij"), {name: (images, labels)}, calibration)

    for wrong in ({"images": 255 * images}, {"calibration": np.uint8(255 * images)}):
        with pytest.raises(HarpError, match=r"Images must be finite and in \[0, 1\].*Divide 8-bit images by 255"):
            written(**wrong)
    for wrong in (np.eye(10)[labels], labels[:-1]):
        with pytest.raises(HarpError, match="Labels must be one class index per image"):
            written(labels=wrong)
    with pytest.raises(HarpError, match="Labels must be class indices from 0 to 9"):
        written(labels=labels + 10)
    assert not list(tmp_path.iterdir())
    plain = write(small, tmp_path / "plain", sets, forms=["float32"])
    column = write(small, tmp_path / "column", {k: (x, y[:, None]) for k, (x, y) in sets.items()}, forms=["float32"])
    assert column[0].accuracy == plain[0].accuracy


def test_what_is_no_plain_model_is_refused(small, sets, tmp_path):
    class Own(keras.Model):
        def call(self, x):
            return small.model(x)

    own = Own()
    own(next(iter(sets.values()))[0])
    for call in (
        lambda: write_kit(own, tmp_path / "kit", list("abcdefghij"), sets, sets),
        lambda: export_tflite(own, tmp_path / "m.tflite"),
    ):
        with pytest.raises(HarpError, match="Expected a built Sequential or Functional model, received Own"):
            call()


@pytest.mark.parametrize("shape", [(64,), (9, 7), (None, 8, 3)])
def test_what_are_no_images_of_one_size_is_refused(shape, tmp_path):
    pool = layers.GlobalAveragePooling2D() if None in shape else layers.Flatten()
    model = keras.Sequential([keras.Input(shape), pool, layers.Dense(2)])
    with pytest.raises(HarpError, match=r"fixed height, width and number of channels .* received the input shape \[1,"):
        check_kit(model, tmp_path / "kit", ["a", "b"], ["float32"])


def test_a_folder_with_a_specification_of_something_else_stays(small, sets, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "spec.json").write_text("{}")
    with pytest.raises(HarpError, match="an earlier phone kit to replace"):
        write(small, tmp_path / "app", sets)
    with pytest.raises(HarpError, match="some of the forms .*; received none"):
        write(small, tmp_path / "kit", sets, forms=[])
    with pytest.raises(HarpError, match="an array or a tf.data.Dataset, received a list"):
        write(small, tmp_path / "kit", sets, calibration=[sets["natural"][0]], forms=["int8"])
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


def test_a_trial_gets_every_file_and_is_a_column(small, sets, tmp_path):
    seen = []

    def accuracy(predict):
        seen.append(predict(sets["natural"][0][:2]))
        return 0.25

    trials = {"square on the file": Trial("2 images, 7 queries", accuracy)}
    keras = {"natural": 1.0, "square on the file": 0.5}  # of "wrong" it is not known
    variants = write(small, tmp_path / "kit", sets, forms=["float32", "int8"], trials=trials, keras_accuracy=keras)
    assert [v.accuracy["square on the file"] for v in variants] == [0.25, 0.25]
    assert [logits.shape for logits in seen] == [(2, 10)] * 2 and not np.array_equal(*seen)
    spec = json.loads((tmp_path / "kit" / "spec.json").read_text())
    assert spec["accuracy_measured_on"]["square on the file"] == "2 images, 7 queries"
    assert spec["models"]["int8"]["accuracy"]["square on the file"] == 0.25 and spec["keras_accuracy"] == keras
    readme = (tmp_path / "kit" / "README.md").read_text()
    assert "| natural, % | wrong, % | square on the file, % |" in readme and "2 images, 7 queries" in readme
    assert "| the Keras model | | | | | | 100.0 | - | 50.0 |" in readme


def test_a_file_that_errs_on_one_image_of_the_whole_set_is_removed(small, sets, tmp_path, monkeypatch):
    images, labels = (np.tile(array, (3, 1, 1, 1)[: array.ndim]) for array in sets["natural"])
    logits = TFLiteClassifier.logits

    def wrong(self, given):
        found = logits(self, given)
        if len(given) == 120:  # the checks before writing see fewer
            found[100] += 1
        return found

    monkeypatch.setattr(TFLiteClassifier, "logits", wrong)
    with pytest.raises(HarpError, match=r"float32.tflite was removed: .* on 120 image\(s\)"):
        export_variants(small.model, tmp_path, {"natural": (images, labels)}, images, names=["float32"])
    assert not list(tmp_path.iterdir())


def test_memory_counts_what_is_unpacked(small, sets, tmp_path):
    variants = {v.name: v for v in export_variants(small.model, tmp_path, sets, sets["natural"][0])}
    assert list(variants) == list(FORMS)
    dense, sparse, half = (variants[n] for n in ("float32", "float32_sparse", "float16_sparse"))
    assert dense.memory_bytes == dense.report.file_bytes
    unpacked = 4 * sum(k.weights for k in sparse.report.kernels if k.sparse)
    assert (
        sparse.memory_bytes == sparse.report.file_bytes + unpacked == memory_bytes(tmp_path / "float32_sparse.tflite")
    )
    # float16 kernels are unpacked twice: to dense float16, and from that to float32.
    assert half.memory_bytes > half.report.file_bytes + unpacked


def test_the_python_lines_of_the_readme_run_in_the_kit(small, sets, tmp_path):
    write(small, tmp_path / "kit", sets)
    program = (tmp_path / "kit" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    folder = tmp_path / "kit"
    done = subprocess.run(
        [sys.executable, "-c", program + "np.save('logits.npy', logits)"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    smallest = min(folder.glob("*.tflite"), key=lambda path: path.stat().st_size).stem
    golden = np.fromfile(folder / "golden" / f"{smallest}.f32", "<f4").reshape(-1, 10)
    np.testing.assert_allclose(np.load(folder / "logits.npy"), golden[:1], rtol=0, atol=1e-3)
