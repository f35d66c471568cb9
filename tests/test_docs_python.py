"""Programs of the docs that need something of the reader, such as a model and images: given that, they run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf import attacks
from tests.runs import tiny_model
from tests.test_docs import PAGES, blocks

IMAGES = np.random.default_rng(0).random((512, *tiny_model().input_shape[1:]), np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) * 1000).astype(np.int32) % tiny_model().output_shape[-1]


def program(page: str, number: int = 0, **changes: str) -> str:
    """A Python block of a page, with some of its text changed; every change must be one."""
    text = [text for _, text in blocks(PAGES[page], "python")][number]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


class Killed(Exception):
    pass


def test_a_training_of_ones_own_goes_on_as_the_page_says(tmp_path, monkeypatch):
    def train(folder, kill_after: int | None = None) -> list[np.ndarray]:
        def count(batch, logs):
            steps.append(batch)
            if len(steps) == kill_after:
                raise Killed

        steps: list[int] = []
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        keras.utils.set_random_seed(0)
        pruned = harp_tf.prune(tiny_model(), target_sparsity=0.5, verbose=False)
        trainer = harp_tf.AdversarialModel(pruned, loss="pgd", attack=attacks.PGD(eps=0.1, steps=1))
        trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])
        changes = {
            "epochs=20": "epochs=3, verbose=0",
            "best=best": "best=best, minutes=0",
            "callbacks=[": "callbacks=[counted, ",
        }
        names = {
            "trainer": trainer,
            "images": IMAGES,
            "labels": LABELS,
            "val": tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(256),
            "counted": keras.callbacks.LambdaCallback(on_train_batch_end=count),
        }
        exec(program("docs/checkpoints.md", **changes), names)
        return [keras.ops.convert_to_numpy(variable) for variable in trainer.variables]

    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", kill_after=7)  # of 3 x 4 steps
    for expected, found in zip(whole, train(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(expected, found)


def test_an_attack_from_python():
    names = {"model": tiny_model(), "images": IMAGES[:8], "labels": LABELS[:8]}
    exec(program("docs/attacks.md", **{"AutoAttack(eps=8 / 255)": "PGD(eps=8 / 255, steps=2)"}), names)
    assert names["adversarial"].shape == IMAGES[:8].shape
    assert 0 < np.abs(names["adversarial"] - IMAGES[:8]).max() <= 8 / 255 + 1e-6
    harp_tf.attacks.AutoAttack(eps=8 / 255)  # too long to be run here


def test_an_attack_that_is_added():
    names: dict = {"__name__": "my_attack"}
    exec(program("docs/attacks.md", 1), names)
    model = tiny_model()
    found = attacks.evaluate(
        lambda images: model(images, training=False),
        tf.data.Dataset.from_tensor_slices((IMAGES[:32], LABELS[:32])).batch(16),
        {"brighten": names["Brighten"](eps=0.1)},
        {"model": lambda images: model(images, training=False).numpy()},
        model.output_shape[-1],
    )
    figures = found.figures["model"]
    assert figures["attacks"]["brighten"]["settings"]["steps"] == 4
    assert 0 <= figures["robust_accuracy"]["brighten"] <= figures["natural_accuracy"]


def test_training_on_several_devices_of_ones_own():
    names = {
        "keras": keras,
        "tf": tf,
        "harp_tf": harp_tf,
        "make_classifier": tiny_model,
        "images": IMAGES,
        "labels": LABELS,
        "val": tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(256),
    }
    exec(program("docs/distribute.md", **{"epochs=20": "epochs=1, verbose=0", "PGD(": "PGD(steps=1, "}), names)
    assert keras.ops.convert_to_numpy(names["trainer"].steps) == len(IMAGES) // 256
