"""Mistakes a user can mend: one line that says what to do, exit status 2, and nothing done."""

import gzip
import json
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from harp_tf import fitting

SHAPE = (8, 8, 1)


@pytest.fixture
def refused(program, tmp_path, monkeypatch):
    """Runs `train`, which must refuse, and returns its line; nothing may be trained or written."""

    def run(*flags: str) -> str:
        monkeypatch.setattr(fitting.Fitting, "fit", lambda *args: pytest.fail("the training began"))
        run_dir = tmp_path / "run"
        line = program("train", f"--run_dir={run_dir}", "--train_limit=60", "--batch_size=16", *flags).error
        assert not run_dir.exists() or list(run_dir.iterdir()) == []
        return line

    return run


def small_model(activation=None, prunable=True):
    body = [layers.Dense(10, activation=activation)] if prunable else [layers.Rescaling(1.0)]
    pixels = [] if prunable else [layers.GlobalAveragePooling2D(), layers.Reshape((1, 1)), layers.ZeroPadding1D((0, 9))]
    return keras.Sequential([keras.Input(SHAPE), *pixels, layers.Flatten(), *body])


def npz(path, images=None, labels=None):
    rng = np.random.default_rng(0)
    images = rng.random((40, *SHAPE), np.float32) if images is None else images
    labels = np.arange(40) % 10 if labels is None else labels
    np.savez(path, x_train=images, y_train=labels, x_test=images[:20], y_test=np.arange(20) % 10)
    return f"--dataset=npz:{path}"


@pytest.mark.parametrize("value", ["1.0", "1", "0", "-1", "nan", "99"])
def test_target_sparsity(refused, value):
    line = refused(f"--target_sparsity={value}")
    assert line.startswith("target_sparsity must be") and f"received {float(value)!r}" in line


def test_a_sparsity_that_leaves_too_few_weights(refused):
    line = refused("--target_sparsity=0.9999999")
    assert "cannot be met" in line and "Choose a lower target sparsity" in line


@pytest.mark.parametrize(
    "labels, words",
    [
        (np.arange(40) % 10 - 1, "y_train contains -1"),
        (np.where(np.arange(40) == 3, 12, np.arange(40) % 10), "from 0 to 12"),
        (np.linspace(0, 9, 40), "labels must be integers"),
        (np.eye(10)[np.arange(40) % 10], "argmax"),
    ],
)
def test_labels_out_of_range(refused, tmp_path, labels, words):
    line = refused(npz(tmp_path / "d.npz", labels=labels))
    assert words in line and "d.npz" in line


def test_test_labels_of_a_class_that_training_does_not_have(refused, tmp_path):
    np.savez(
        tmp_path / "d.npz",
        x_train=np.zeros((40, *SHAPE), np.uint8),
        y_train=np.arange(40) % 4,
        x_test=np.zeros((8, *SHAPE), np.uint8),
        y_test=np.arange(8),
    )
    assert "test labels run from 0 to 7" in refused(f"--dataset=npz:{tmp_path / 'd.npz'}")


@pytest.mark.parametrize("factor, shift", [(255.0, 0.0), (2.0, -1.0)])
def test_float_images_outside_0_to_1(refused, tmp_path, factor, shift):
    images = np.random.default_rng(0).random((40, *SHAPE), np.float32) * factor + shift
    line = refused(npz(tmp_path / "d.npz", images=images))
    assert "[0, 1]" in line and "Divide them by 255" in line


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_model_that_returns_probabilities(refused, tmp_path, activation):
    small_model(activation).save(tmp_path / "m.keras")
    line = refused(f"--model={tmp_path / 'm.keras'}")
    assert f"ends in a {activation}" in line and "activation=None" in line


def test_a_model_without_a_prunable_layer(refused, tmp_path):
    small_model(prunable=False).save(tmp_path / "m.keras")
    assert "has no layer that can be pruned" in refused(f"--model={tmp_path / 'm.keras'}")
    # Also when the hours of pretraining would come first.
    assert "has no layer that can be pruned" in refused(f"--model={tmp_path / 'm.keras'}", "--stages=pretrain,prune")


def test_everything_skipped(refused):
    names = "conv1,conv2,conv3,conv4,dense1,logits"
    line = refused(f"--skip={names}")
    assert "has no layer that can be pruned" in line and "skipped on request" in line


def test_a_layer_to_skip_that_does_not_exist(refused):
    line = refused("--skip=conv1,cnov2")
    assert "'cnov2'" in line and "conv2" in line


def test_a_model_for_other_images_or_classes(refused, tmp_path):
    keras.Sequential([keras.Input((9, 9, 1)), layers.Flatten(), layers.Dense(10)]).save(tmp_path / "a.keras")
    assert "(None, 9, 9, 1)" in refused(f"--model={tmp_path / 'a.keras'}")
    keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(7)]).save(tmp_path / "b.keras")
    assert "10 classes" in refused(f"--model={tmp_path / 'b.keras'}")


def test_a_keras_file_that_is_none(refused, tmp_path):
    path = tmp_path / "m.keras"
    assert "m.keras, which does not exist" in refused(f"--model={path}")
    path.write_bytes(b"not a zip")
    assert "could not be read as a Keras 3 model" in refused(f"--model={path}")
    small_model().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "could not be read as a Keras 3 model" in refused(f"--model={path}")


def test_a_width_for_a_model_of_the_users_own(refused, tmp_path):
    small_model().save(tmp_path / "m.keras")
    assert "has its own" in refused(f"--model={tmp_path / 'm.keras'}", "--width=0.5")


@pytest.mark.parametrize(
    "model, words",
    [
        ("nonesuch", "Unknown model 'nonesuch'"),
        ("no_such_module:build", "No module named"),
        ("json:nonesuch", "has no attribute 'nonesuch'"),
        ("json:decoder", "is not a function"),
    ],
)
def test_a_model_that_is_not_found(refused, model, words):
    assert words in refused(f"--model={model}")


def test_a_size_left_open_cannot_be_counted_in_flops(refused, tmp_path):
    inputs = keras.Input((None, None, 1))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, layers.Dense(10)(pooled)).save(tmp_path / "m.keras")
    flags = [f"--model={tmp_path / 'm.keras'}", "--budget=flops", "--target_sparsity=0.5"]
    assert "FLOPs" in refused(*flags)
    assert "FLOPs" in refused(*flags, "--stages=pretrain,prune")


def test_missing_datasets(refused, tmp_path):
    assert "There is no folder" in refused(f"--dataset=idx:{tmp_path / 'none'}")
    assert "train-images-idx3-ubyte" in refused(f"--dataset=idx:{tmp_path}")
    assert "There is no file" in refused(f"--dataset=npz:{tmp_path / 'none.npz'}")
    assert "There is no folder" in refused(f"--dataset=dir:{tmp_path / 'none'}")


def test_a_tfds_set_that_was_not_prepared_and_one_that_does_not_exist(refused, tmp_path):
    line = refused("--dataset=mnist", f"--data_dir={tmp_path}")
    assert "download_and_prepare()" in line and "--download" in line and str(tmp_path) in line
    assert "Unknown data set 'mnits'" in refused("--dataset=mnits")


def test_damaged_datasets(refused, tmp_path):
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 not really")
    assert "could not be read as an .npz" in refused(f"--dataset=npz:{tmp_path / 'd.npz'}")
    for part, count in (("train", 40), ("t10k", 20)):
        images = struct.pack(">IIII", 0x00000803, count, 8, 8) + bytes(count * 64)
        labels = struct.pack(">II", 0x00000801, count) + bytes(i % 10 for i in range(count))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images[:-5])
    assert "it is cut off" in refused(f"--dataset=idx:{tmp_path}")


def test_an_empty_class_folder(refused, tmp_path):
    image = tf.io.encode_png(np.zeros(SHAPE, np.uint8)).numpy()
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(5):
        (tmp_path / "data" / "cat" / f"{number}.png").write_bytes(image)
    line = refused(f"--dataset=dir:{tmp_path / 'data'}")
    assert "dog" in line and "0 images" in line


@pytest.mark.parametrize("stages", ["pretrain,prune", "prune"])
def test_a_batch_larger_than_the_data(refused, tmp_path, stages):
    small_model().save(tmp_path / "m.keras")
    assert "A batch of 61 does not fit into the 60 images" in refused("--batch_size=61")
    line = refused(f"--model={tmp_path / 'm.keras'}", "--batch_size=4096", "--train_limit=50", f"--stages={stages}")
    assert "A batch of 4096 does not fit into the 50 images" in line


@pytest.mark.parametrize(
    "content, words",
    [
        ({"conv1/kernel": 0.5}, "no rate for"),
        ({"layers": {"elsewhere/kernel": {"rate": 0.5}}}, "unknown layers"),
        ({"conv1/kernel": 2}, "must be in (0, 1]"),
        ([], "must be a JSON object"),
        ("{", "Cannot read the rates file"),
    ],
)
def test_a_strategy_file_that_does_not_fit(refused, tmp_path, content, words):
    path = tmp_path / "rates.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    line = refused(f"--strategy={path}")
    assert words in line and "rates.json" in line


def test_a_strategy_that_does_not_exist(refused, tmp_path):
    assert "strategy must be one of uniform, erk, igq, lamp" in refused("--strategy=unifrom")
    assert "Cannot read the rates file" in refused(f"--strategy={tmp_path / 'none.json'}")


def test_a_run_directory_that_cannot_be_made(program, tmp_path):
    (tmp_path / "file").write_text("regular")
    for place in ("file", "file/run", "file/a/b"):
        line = program("train", f"--run_dir={tmp_path / place}").error
        assert "cannot be written" in line and str(tmp_path / place) in line
    assert (tmp_path / "file").read_text() == "regular"


def test_the_run_directory_is_checked_before_the_data_is_read(program, tmp_path):
    (tmp_path / "file").write_text("regular")
    line = program("train", f"--run_dir={tmp_path / 'file'}", f"--dataset=npz:{tmp_path / 'none.npz'}").error
    assert "cannot be written" in line


def test_a_start_that_does_not_exist(refused, tmp_path):
    for place in ("none", "none.keras"):
        assert f"{tmp_path / place}, which does not exist" in refused(f"--init_from={tmp_path / place}")
    (tmp_path / "empty").mkdir()
    line = refused(f"--init_from={tmp_path / 'empty'}")
    assert f"The stage prune starts from {tmp_path / 'empty' / 'dense.keras'}" in line


def test_later_stages_without_the_earlier_ones(refused):
    line = refused("--stages=finetune")
    assert "The stage finetune starts from" in line and "scored.keras" in line and "earlier stages" in line
    line = refused("--stages=prune,finetune")
    assert "The stage prune starts from" in line and "dense.keras" in line


def test_stages_from_the_wrong_kind_of_model(refused, small_run):
    line = refused("--stages=finetune", f"--init_from={small_run[0] / 'dense.keras'}")
    assert "finetune starts from a pruned model, received a dense one" in line and "scored.keras" in line
    for first in ("pretrain", "prune"):
        line = refused(f"--stages={first}", f"--init_from={small_run[0] / 'scored.keras'}")
        assert f"{first} starts from a dense model, received a pruned one" in line and "dense.keras" in line


def test_export_and_evaluate_without_anything_trained(refused):
    for stage in ("export", "evaluate"):
        assert "neither dense.keras nor pruned.keras" in refused(f"--stages={stage}")


def test_images_too_small_for_the_model(refused):
    assert "at least 32x32" in refused("--model=vgg16_bn")


def test_a_real_process_ends_with_status_2_and_one_line(new_process, tmp_path):
    ended = new_process("-m", "harp_tf.train", "--target_sparsity=1.0", f"--run_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert ended.status == 2 and ended.out == ""
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert lines == [ended.err.splitlines()[-1]]
    assert lines[0].startswith("error: target_sparsity must be a number strictly between 0 and 1")
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []
