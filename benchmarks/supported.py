"""What harp_tf prunes: every kind of layer and model, from wrapping to stripping; writes docs/supported.md.

Command: python -m benchmarks.supported [--only=NAME,NAME] [--write]
Each row wraps a model, trains an epoch of 4 steps against PGD-2 with the learned rates, saves and loads it, strips it,
and brings it to 99 % of its weights and to 90 % of its multiply-adds. A column that fails says why, and the exit status
is 1. With --write the table goes to docs/supported.md, and the answers to benchmarks/results/supported/results.json;
with --only, these rows of it are renewed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers

import harp_tf
from harp_tf.layers import budget_of, kernel_nonzeros, project_to_budget, pruned_kernels, set_stage, strip
from harp_tf.run_dir import surroundings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.layers import zoo  # noqa: E402

COLUMNS = {
    "wraps": "wraps",
    "trains": "an epoch with PGD",
    "loads": "saved and loaded",
    "strips": "stripped, equal logits",
    "weights": "99 % of weights",
    "flops": "90 % of multiply-adds",
}
RESULTS = ROOT / "benchmarks" / "results" / "supported" / "results.json"
BATCH, STEPS, SIZE = 8, 4, 64
FLOPS_SPARSITY, FLOPS_LEFT = 0.9, 10  # nine tenths go, one of 10 stays


INTRODUCTION = f"""# What can be pruned

Written by `python -m benchmarks.supported --write`, which takes every row from wrapping to stripping: wrapped with all
its kernels and equal logits while nothing is removed; an epoch of adversarial training (PGD-2) in which scores and
rates move and kernels do not; saved and loaded under safe mode; stripped with logits equal bit for bit; brought to 1 %
of its weights; and brought to a tenth of its multiply-adds. Files for the phone are not part of it. A layer or model of
the first two tables stands inside a small classifier of images or sequences, and the architectures take images of
{SIZE} or 32 pixels: what is shown here is that the way is open, not what accuracy waits at its end.

Other layers are left alone and named; `strict=True` makes them an error; `harp_tf.register_kernels` adds them."""


def around(name: str) -> keras.Model:
    """A classifier with the layer in the middle, large enough that 1 % of it is more than a weight per kernel."""
    kind, arguments, shape = zoo.LAYERS[name]
    inputs = keras.Input(shape)
    x = layers.Flatten()(kind(**arguments, name="layer")(inputs))
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def enlarged(build: Callable[[], keras.Model]) -> keras.Model:
    """A classifier of images, or of sequences, that holds one of the zoo's models and more weights beside it."""
    inner = build()
    if isinstance(inner, zoo.Net):
        inputs = given = keras.Input((8, 8, 3))
    elif len(inner.inputs) == 1:
        inputs = given = keras.Input(inner.inputs[0].shape[1:])
    else:  # an attack moves the images, and what else goes in follows from them
        inputs = keras.Input(inner.input["image"].shape[1:])
        extra = layers.Dense(5, name="beside_image")(layers.GlobalAveragePooling2D()(inputs))
        given = {"image": inputs, "extra": extra}
    outputs = inner(given)
    outputs = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    x = layers.Dense(64, activation="relu", name="beside")(layers.Flatten()(inputs))
    x = layers.Dense(64, activation="relu", name="beside2")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(layers.Concatenate()([*outputs, x])))


def application(name: str, **options) -> keras.Model:
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(SIZE, SIZE, 3), classes=10, classifier_activation=None, **options)
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":  # untrained, at 1e-6, it hides its block from 4 steps of training
            layer.gamma.assign(keras.ops.ones_like(layer.gamma))
    return model


APPLICATIONS = ("ResNet50", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "DenseNet121")
APPLICATIONS = (*APPLICATIONS, "ConvNeXtTiny")

MODELS: dict[str, dict[str, Callable[[], keras.Model]]] = {
    "Layers": {name: (lambda name=name: around(name)) for name in zoo.LAYERS},
    "Kinds of models": {name: (lambda build=build: enlarged(build)) for name, build in zoo.MODELS.items()},
    "Architectures": {
        **{f"keras.applications.{name}": (lambda name=name: application(name)) for name in APPLICATIONS},
        "vision transformer of Keras layers": lambda: zoo.transformer(width=64, patch=4, depth=2, size=32, classes=10),
        **{f"harp_tf {name}": (lambda name=name: own(name)) for name in ("vgg16_bn", "resnet18", "mobile_sparse")},
    },
}


def own(name: str) -> keras.Model:
    from harp_tf import models

    return models.build(name, (32, 32, 3), 10, width=0.25)


class Row:
    """One model on its way.

    Args:
        build: makes the dense model.
    """

    def __init__(self, build: Callable[[], keras.Model]):
        keras.utils.set_random_seed(0)
        self.dense = build()
        shape = self.dense.input_shape[1:]
        draws = np.random.default_rng(0)
        self.images = draws.uniform(size=(BATCH * STEPS, *shape)).astype(np.float32)
        self.labels = draws.integers(0, 10, BATCH * STEPS)
        # From half of the weights: of a layer of 30 weights a tenth may be cut off from every gradient.
        self.pruned = harp_tf.prune(self.dense, 0.99, initial_rate=0.5, verbose=False)

    def wraps(self) -> str:
        """Every trainable kernel got scores and a rate, and with all of them kept the logits are the dense ones."""
        wanted = sum(w.name.endswith("kernel") for w in self.dense.trainable_weights)
        found = len({id(kernel.variable) for kernel in pruned_kernels(self.pruned)})
        if found != wanted:
            return f"{found} of {wanted} kernels"
        for kernel in pruned_kernels(self.pruned):
            kernel.scores.set_rate(1.0)
        equal = np.array_equal(self.pruned(self.images[:4]), self.dense(self.images[:4]))
        for kernel in pruned_kernels(self.pruned):
            kernel.scores.set_rate(0.5)
        return "" if equal else "other logits with all weights kept"

    def trains(self) -> str:
        """Scores and rates moved, kernels did not, the loss is finite."""
        kernels = pruned_kernels(self.pruned)
        before = [(np.array(k.variable), np.array(k.scores.scores), float(k.scores.logit)) for k in kernels]
        trainer = harp_tf.AdversarialModel(self.pruned, "pgd", harp_tf.attacks.PGD(eps=4 / 255, steps=2))
        trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        history = trainer.fit(
            self.images,
            self.labels,
            batch_size=BATCH,
            verbose=0,
            callbacks=[harp_tf.StepwiseRegularization(gamma=0.1)],
        )
        if not np.isfinite(history.history["loss"][-1]):
            return f"loss {history.history['loss'][-1]}"
        for (weights, scores, logit), k in zip(before, kernels, strict=True):
            if not np.array_equal(weights, k.variable):
                return f"{k.path} changed"
            if np.array_equal(scores, k.scores.scores) or logit == float(k.scores.logit):
                return f"{k.path} learned nothing"
        return ""

    def loads(self) -> str:
        """Safe mode, and the same logits."""
        with tempfile.TemporaryDirectory() as folder:
            self.pruned.save(f"{folder}/half.keras")
            again = keras.models.load_model(f"{folder}/half.keras", safe_mode=True)
        return "" if np.array_equal(again(self.images[:4]), self.pruned(self.images[:4])) else "other logits"

    def strips(self) -> str:
        """The plain model has the logits of the pruned one, bit for bit."""
        equal = np.array_equal(strip(self.pruned)(self.images[:4]), self.pruned(self.images[:4]))
        return "" if equal else "other logits"

    def weights(self) -> str:
        """At most 1 % of the weights stay, counted on the plain kernels."""
        project_to_budget(self.pruned)
        set_stage(self.pruned, "finetune")
        counts = kernel_nonzeros(strip(self.pruned)).values()
        total, kept = (sum(count[i] for count in counts) for i in range(2))
        return "" if kept <= total - int(0.99 * total) else f"{kept:,} of {total:,} weights"

    def flops(self) -> str:
        """At most a tenth of the multiply-adds stays."""
        pruned = harp_tf.prune(self.dense, FLOPS_SPARSITY, budget="flops", verbose=False)
        project_to_budget(pruned)
        budget = budget_of(pruned)
        if budget.counts != "flops" or budget.kept * FLOPS_LEFT > budget.total:
            return f"{budget.kept:,} of {budget.total:,} {budget.counts}"
        return ""


def measure(build: Callable[[], keras.Model]) -> dict[str, str]:
    """What each column says: "" for yes, else why not."""
    row = Row(build)
    found = {}
    for column in COLUMNS:
        try:
            found[column] = getattr(row, column)()
        except Exception as error:  # a row that fails is a finding, not the end of the table
            found[column] = f"{type(error).__name__}: {error}"
    keras.backend.clear_session()
    return found


def page(results: dict[str, dict[str, dict[str, str]]]) -> str:
    """The table as Markdown."""
    lines = [INTRODUCTION]
    for title, rows in results.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| | " + " | ".join(COLUMNS.values()) + " |",
            "|---" * (len(COLUMNS) + 1) + "|",
        ]
        lines += [f"| {name} | " + " | ".join(row[c] or "yes" for c in COLUMNS) + " |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), help="rows, separated by commas")
    parser.add_argument("--write", action="store_true", help="write docs/supported.md and the results")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, str]]] = {}
    for title, builders in MODELS.items():
        for name, build in builders.items():
            if options.only and name not in options.only:
                continue
            start = time.monotonic()
            row = results.setdefault(title, {})[name] = measure(build)
            answers = "  ".join(f"{column}: {row[column] or 'yes'}" for column in COLUMNS)
            print(f"{name}  {answers}  ({time.monotonic() - start:.0f} s)", flush=True)
    if options.write:
        record = {"command": "python -m benchmarks.supported --write", **surroundings(), "rows": results}
        if options.only:
            record = json.loads(RESULTS.read_text(encoding="utf-8"))
            for title, rows in results.items():
                record["rows"][title] |= rows
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (ROOT / "docs" / "supported.md").write_text(page(record["rows"]), encoding="utf-8")
    sys.exit(any(answer for rows in results.values() for row in rows.values() for answer in row.values()))


if __name__ == "__main__":
    main()
