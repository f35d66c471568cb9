"""Every error message of the way from a model to a pruned one and back, with its full text.

The texts are in error_messages.txt, to be read in one go: what was expected, what was received, what to do. After a
change, write it anew with `python -m tests.test_error_messages` and read the difference.
"""

import ast
import contextlib
import json
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers

import harp_tf
from harp_tf import attacks, losses
from harp_tf.keras_backend import require_tensorflow
from harp_tf.layers import graph, pruned_class
from harp_tf.training import StopOnNaN, WatchMemory, require_disk
from harp_tf.types import HarpError
from tests.layers.uncopyable import Lazy, Subclass

ROOT = Path(__file__).parents[1]
TEXTS = Path(__file__).with_name("error_messages.txt")

# Every `raise` in these files has a case here. A message of `fit` gets its file into this list and its case into FIT.
FILES = [
    "harp_tf/baselines/base.py",
    "harp_tf/compression/budget.py",
    "harp_tf/configured.py",
    "harp_tf/inputs.py",
    "harp_tf/keras_backend.py",
    "harp_tf/layers/bounds.py",
    "harp_tf/layers/budget.py",
    "harp_tf/layers/composite.py",
    "harp_tf/layers/model.py",
    "harp_tf/layers/policy.py",
    "harp_tf/layers/prune.py",
    "harp_tf/layers/rebuild.py",
    "harp_tf/layers/registry.py",
    "harp_tf/strategies/__init__.py",
    "harp_tf/strategies/from_json.py",
    "harp_tf/losses/__init__.py",
    "harp_tf/losses/base.py",
    "harp_tf/losses/free_at.py",
    "harp_tf/training/accumulation.py",
    "harp_tf/training/adversarial_model.py",
    "harp_tf/training/callbacks.py",
    "harp_tf/training/input_checks.py",
    "harp_tf/training/resources.py",
    "harp_tf/training/saving.py",
    "harp_tf/training/watchdogs.py",
]
NOT_REACHED = {
    "Keras cannot be imported with the backend",  # in a process of its own: test_keras_backend.py
    "The figures of an epoch could not be written",  # on a full disk: training/test_callbacks.py
}


def small(**options) -> keras.Model:
    """432 + 96 prunable weights."""
    names = {"name": "small", **options}
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(16, 3, name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(6, name="head"),
        ],
        **names,
    )


def double(x):
    return 2 * x


def double_otherwise():
    def double(x):
        return x + x

    return double


class Unknown(layers.Layer):
    """A layer with a matrix that harp_tf has not been told of."""

    def build(self, input_shape):
        self.matrix = self.add_weight(name="matrix", shape=(input_shape[-1], 4))

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.matrix)


class Stubborn(layers.Dense):
    """Its constructor takes none of what its configuration holds."""

    def __init__(self):
        super().__init__(3)


class Grows(Subclass):
    """Gets a layer that its configuration does not tell of."""

    def __init__(self):
        super().__init__(3)
        self.after = None

    def call(self, inputs):
        x = super().call(inputs)
        return x if self.after is None else self.after(x)

    def get_config(self):
        return {}


def on_vectors(*own: layers.Layer, name: str = "vectors") -> keras.Model:
    return keras.Sequential([keras.Input((5,)), *own], name=name)


def called(model: keras.Model) -> keras.Model:
    model(np.zeros((1, 5), np.float32))
    return model


def grown() -> keras.Model:
    model = Grows()
    model.after = layers.BatchNormalization(name="norm")
    return called(model)


def sharing() -> keras.Model:
    inputs = keras.Input((5,))
    dense = layers.Dense(5, name="dense")
    inner = keras.Model(inputs, dense(inputs), name="inner")
    return keras.Model(inputs, dense(inner(inputs)), name="outer")


def opened() -> keras.Model:
    return keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()], name="open"
    )


def prune(model: object = None, sparsity: object = 0.9, **options) -> keras.Model:
    return harp_tf.prune(small() if model is None else model, sparsity, **{"verbose": False, **options})


def rates_file(content: object) -> Path:
    path = Path("rates.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


WRAP: dict[str, Callable[[], object]] = {
    "another Keras backend": lambda: require_tensorflow("3.15.1", "torch"),
    "Keras 2": lambda: require_tensorflow("2.15.0", "tensorflow"),
    "no Keras model": lambda: prune("model.keras"),
    "a model without weights": lambda: prune(keras.Sequential([layers.Dense(3)], name="empty")),
    "sparsity": lambda: prune(sparsity=99),
    "mode": lambda: prune(mode="hydra"),
    "floor factor": lambda: prune(floor_factor=1),
    "initial rate": lambda: prune(initial_rate=0),
    "an unknown strategy": lambda: prune(strategy="magnitude"),
    "a strategy without a rate": lambda: prune(strategy=lambda kernels, rate: {"head/kernel": 0.5}),
    "a rates file that is not there": lambda: prune(strategy="no_such.json"),
    "a rates file that is no JSON": lambda: prune(strategy=rates_file("{")),
    "a rates file without rates": lambda: prune(strategy=rates_file([])),
    "a rates file with a bad rate": lambda: prune(strategy=rates_file({"conv/kernel": 2, "head/kernel": 0.1})),
    "a rates file of another model": lambda: prune(strategy=rates_file({"conv/kernel": 0.1, "dense/kernel": 0.1})),
    "rate bounds of no layer": lambda: prune(rate_bounds={"haed": (0.1, 0.5)}),
    "rate bounds that are none": lambda: prune(rate_bounds={"head": (0.5, 0.1)}),
    "flops of an open input size": lambda: prune(opened(), budget="flops"),
    "skip matches nothing": lambda: prune(skip=["haed", re.compile("^block"), layers.Conv3D]),
    "skip is no rule": lambda: prune(skip=0),
    "skip holds what is no rule": lambda: prune(skip=["head", 0]),
    "a pruned model": lambda: prune(prune()),
    "unknown layers and strict": lambda: prune(on_vectors(Unknown(name="mine"), layers.Dense(3)), strict=True),
    "nothing to prune": lambda: prune(on_vectors(Unknown(name="mine"), layers.Dense(3, trainable=False, name="d"))),
    "a budget below a weight per layer": lambda: prune(sparsity=0.999),
    "functions of one name": lambda: prune(
        on_vectors(layers.Dense(3, activation=double), layers.Dense(3, activation=double_otherwise()))
    ),
    "a layer without a configuration": lambda: prune(on_vectors(Stubborn())),
    "a lambda": lambda: prune(on_vectors(layers.Dense(3), layers.Lambda(lambda x: 2 * x))),
    "a subclass without a configuration": lambda: prune(called(Subclass(3))),
    "a subclass whose copy has other layers": lambda: prune(grown()),
    "a layer that builds its layers too late": lambda: prune(on_vectors(Lazy(name="lazy"))),
    "a layer shared with a nested model": lambda: prune(sharing()),
    "the graph of a subclass": lambda: graph.graph_of(called(Subclass(3))),
    "an unknown stage": lambda: harp_tf.set_stage(prune(), "train"),
    "registering what is no layer class": lambda: harp_tf.register_kernels("Dense", "kernel"),
    "registering no kernel": lambda: harp_tf.register_kernels(Unknown),
    "registering a second class of one name": lambda: harp_tf.register_kernels(
        type("Dense", (layers.Layer,), {"__module__": "other_package"}), "kernel"
    ),
    "a layer class that is not registered": lambda: pruned_class(Unknown),
    "bounds that are no dict": lambda: prune(rate_bounds=[("conv", 0.1)]),
    "a bound that is no pair": lambda: prune(rate_bounds={"conv": 0.1}),
    "a ceiling below the floor": lambda: prune(rate_bounds={"conv": (None, 1e-4)}),
    "a budget that the image alone exceeds": lambda: prune(sparsity=0.9, granularity="channel"),
}
STRIP: dict[str, Callable[[], object]] = {
    "a model that is not pruned": lambda: harp_tf.strip(small()),
    "a training": lambda: harp_tf.strip(trainer_of(prune(), name="trainer")),
}


def trainer_of(network: object = None, loss: object = "natural", attack: object = None, **options):
    network = small() if network is None else network
    trainer = harp_tf.AdversarialModel(network, loss, attack, **options)
    trainer.compile("sgd", run_eagerly=True)
    return trainer


def fit(x: object = None, y: object = None, network: object = None, **options):
    """Trains on two images if it is not given others; what it refuses it refuses before."""
    x = np.zeros((2, 6, 6, 3), np.float32) if x is None else x
    y = np.array([0, 1]) if y is None else y
    return trainer_of(network).fit(x, y, verbose=0, **options)


class OwnLoss(losses.RobustLoss):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, predict, images, adversarial, labels):
        return losses.LossTerms(self.factor * losses.cross_entropy(predict(images), labels), None, None)


def in_another_stage() -> None:
    trainer = trainer_of(prune())
    harp_tf.set_stage(trainer.network, "finetune")
    trainer.fit(np.zeros((2, 6, 6, 3), np.float32), np.array([0, 1]), verbose=0)


def half_an_execution():
    trainer = trainer_of()
    trainer.compile("sgd", steps_per_execution=2)
    trainer.fit(IMAGES, np.array([0, 1]), initial_step=3)


def with_ends(inputs: int, outputs: int) -> keras.Model:
    ends = [keras.Input((5,)) for _ in range(inputs)]
    merged = layers.Concatenate()(ends) if inputs > 1 else ends[0]
    return keras.Model(ends, [layers.Dense(3)(merged) for _ in range(outputs)], name="ends")


def with_model(callback: keras.callbacks.Callback, model: keras.Model) -> keras.callbacks.Callback:
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def diverged() -> None:
    callback = with_model(StopOnNaN(), trainer_of())
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"loss": float("nan")})


def out_of_disk() -> None:
    with mock.patch("shutil.disk_usage", return_value=mock.Mock(free=2_000)):
        require_disk("runs/run", 5_000_000, "The stage prune")


def out_of_memory() -> None:
    Path("proc").mkdir()
    Path("proc", "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 8192 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    WatchMemory(1, every=1, root=".").on_train_batch_begin(0)


class TwoOutputs(Subclass):
    def call(self, inputs):
        return [self.dense(inputs), self.dense(inputs)]


class Fixed(attacks.Attack):
    """Has neither objective nor start."""

    def perturb(self, logits, images, labels, seed, number):
        return images


IMAGES, VECTORS = np.zeros((2, 6, 6, 3), np.float32), np.zeros((2, 5), np.float32)
FIT: dict[str, Callable[[], object]] = {
    "no Keras model": lambda: trainer_of("model.keras"),
    "a model without weights": lambda: trainer_of(keras.Sequential([layers.Dense(3)], name="empty")),
    "several inputs": lambda: trainer_of(with_ends(2, 1)),
    "several outputs": lambda: trainer_of(with_ends(1, 2)),
    "several outputs of a subclass": lambda: fit(VECTORS, network=called(TwoOutputs(3))),
    "one output": lambda: trainer_of(on_vectors(layers.Dense(1, activation="sigmoid"))),
    "outputs with places": lambda: trainer_of(keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(3, 1)])),
    "an unknown loss": lambda: trainer_of(loss="fgsm"),
    "a loss of Keras": lambda: trainer_of(loss=keras.losses.Hinge),
    "a loss in compile": lambda: trainer_of().compile("sgd", "mse"),
    "no attack": lambda: trainer_of(loss="trades"),
    "the name of an attack": lambda: trainer_of(loss="pgd", attack="pgd"),
    "an attack that the loss cannot aim": lambda: trainer_of(loss="trades", attack=Fixed(eps=0.1)),
    "a negative radius": lambda: attacks.PGD(eps=-0.1),
    "no steps": lambda: attacks.PGD(eps=0.1, steps=0),
    "restarts from the clean image": lambda: attacks.PGD(eps=0.1, start="clean", restarts=2),
    "free without a batch size": lambda: trainer_of(loss="free", attack=attacks.PGD(eps=0.1)),
    "a KL term that counts the wrong way": lambda: losses.Trades(beta=-1.0),
    "a KL term without a number": lambda: losses.Mart(beta=float("nan")),
    "free without images": lambda: losses.FreeAdversarialTraining(batch_size=0),
    "free on an open size": lambda: trainer_of(
        opened(), losses.FreeAdversarialTraining(batch_size=2), attacks.PGD(eps=0.1)
    ),
    "free on a larger batch": lambda: trainer_of(
        loss=losses.FreeAdversarialTraining(batch_size=1), attack=attacks.PGD(eps=0.1)
    ).train_on_batch(IMAGES, np.array([0, 1])),
    "weight decay": lambda: trainer_of(weight_decay=-1.0),
    "seed": lambda: trainer_of(seed="today"),
    "no parts": lambda: trainer_of(accumulate=0),
    "a batch that does not divide": lambda: trainer_of(accumulate=3).train_on_batch(IMAGES, np.array([0, 1])),
    "no callback": lambda: fit(network=prune()),
    "another stage than was compiled": in_another_stage,
    "half of the steps that run together": half_an_execution,
    "a schedule without steps": lambda: (
        harp_tf.baselines.METHODS["radmm"].trainer(prune(mode="score"), "natural").fit()
    ),
    "values that order nothing": lambda: harp_tf.baselines.keep_largest(
        harp_tf.layers.pruned_kernels(prune(mode="score"))[0], np.zeros(3)
    ),
    "a loss that cannot be saved": lambda: OwnLoss(1.0).get_config(),
    "gamma": lambda: harp_tf.StepwiseRegularization(0),
    "gamma of a dense network": lambda: fit(callbacks=[harp_tf.StepwiseRegularization()]),
    "KeepBest without validation": lambda: fit(callbacks=[harp_tf.KeepBest()]),
    "KeepBest of another model": lambda: with_model(harp_tf.KeepBest(), small()),
    "a loss that is no number": diverged,
    "a full disk": out_of_disk,
    "no memory": out_of_memory,
    "no labels": lambda: trainer_of().fit(IMAGES),
    "images in a list": lambda: fit([IMAGES, IMAGES]),
    "images of another size": lambda: fit(np.zeros((2, 28, 28), np.float32)),
    "images in 8 bits": lambda: fit(np.full((2, 6, 6, 3), 255, np.uint8)),
    "images that are no numbers": lambda: fit(np.full((2, 6, 6, 3), "a")),
    "images with NaN": lambda: fit(np.full((2, 6, 6, 3), np.nan, np.float32)),
    "one-hot labels": lambda: fit(y=np.eye(6)[[0, 1]]),
    "labels in words": lambda: fit(y=np.array(["cat", "dog"])),
    "labels out of range": lambda: fit(y=np.array([5, 6])),
    "probabilities": lambda: fit(VECTORS, network=on_vectors(layers.Dense(3, activation="softmax"))),
    "the state of another training": lambda: trainer_of().load_own_variables({"gamma": 0.1, "steps": 3}),
}
CASES = {
    f"{path}: {what}": trigger
    for path, cases in (("wrap", WRAP), ("strip", STRIP), ("fit", FIT))
    for what, trigger in cases.items()
}


def text_of(error: HarpError) -> str:
    """The message, the same whether this file is a test or a program."""
    return str(error).replace("__main__.", f"{Path(__file__).parent.name}.{Path(__file__).stem}.")


@contextlib.contextmanager
def in_scratch_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def raised_by(case: str) -> HarpError:
    with in_scratch_folder():
        try:
            CASES[case]()
        except HarpError as error:
            return error
    raise AssertionError(f"{case} raised nothing")


@pytest.fixture(scope="module")
def errors():
    return {case: raised_by(case) for case in CASES}


@pytest.fixture(scope="module")
def texts():
    parts = re.split(r"^## (.*)\n", TEXTS.read_text(), flags=re.MULTILINE)
    return {case: text.strip() for case, text in zip(parts[1::2], parts[2::2])}


@pytest.mark.parametrize("case", CASES)
def test_the_text_of_an_error(case, errors, texts):
    assert text_of(errors[case]) == texts[case]


def test_no_text_is_left_over(texts):
    assert list(texts) == list(CASES)


def test_a_message_is_whole_sentences_on_one_line(texts):
    for case, text in texts.items():
        assert "\n" not in text and text.endswith("."), case
        assert not re.search(r" {2}|(?<!\.)\.\.(?!\.)", text), case


def test_every_raise_has_its_case(errors):
    """A new error message of these files comes with its text."""
    reached = set()
    for error in errors.values():
        for frame in traceback.extract_tb(error.__traceback__):
            reached.add((frame.filename, frame.lineno))
    missing = []
    for name in FILES:
        source = (ROOT / name).read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Raise) and node.exc is not None:
                segment = ast.get_source_segment(source, node) or ""
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if not any((str(ROOT / name), line) in reached for line in lines):
                    if not any(text in segment for text in NOT_REACHED):
                        missing.append(f"{name}:{node.lineno}: {segment}")
    assert not missing, "give these a case:\n" + "\n".join(missing)


if __name__ == "__main__":
    TEXTS.write_text("\n".join(f"## {case}\n{text_of(raised_by(case))}\n" for case in CASES))
