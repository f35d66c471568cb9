"""keras.applications and a vision transformer: one call of `prune`, and back."""

import keras
import numpy as np
import pytest

from harp_tf.layers import kernel_nonzeros, prune, pruned_kernels, rate_table, strip
from tests.layers.zoo import inputs_for, transformer

slow = pytest.mark.slow  # tens of seconds each


def application(name, **options):
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None, **options)


# name -> (how to build it, what is left alone and named)
NETWORKS = {
    "MobileNetV2": (lambda: application("MobileNetV2", alpha=0.35), []),
    "MobileNetV3Small": (lambda: application("MobileNetV3Small", alpha=0.35, minimalistic=True), []),
    "vision transformer": (lambda: transformer(width=32, patch=4, depth=2, size=32), ["positions"]),
    "ResNet50": (lambda: application("ResNet50"), []),
    "EfficientNetB0": (lambda: application("EfficientNetB0"), []),
    "EfficientNetV2B0": (lambda: application("EfficientNetV2B0"), []),
    "DenseNet121": (lambda: application("DenseNet121"), []),
    "ConvNeXtTiny": (lambda: application("ConvNeXtTiny"), []),
}
FAST = ("vision transformer",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else slow) for n in NETWORKS])
def test_an_architecture_is_pruned_and_stripped(name, capsys, tmp_path):
    build, left = NETWORKS[name]
    model = build()
    pruned = prune(model, 0.9, strict=not left)  # with strict, a layer of an unknown kind raises
    report = capsys.readouterr().out
    assert [line.split()[2] for line in report.splitlines() if line.startswith("not pruned")] == left
    kernels = pruned_kernels(pruned)
    assert len(kernels) == sum(w.name.endswith("kernel") for w in model.trainable_weights)
    assert {id(k.variable) for k in kernels} == {id(w) for w in pruned.weights if w.name.endswith("kernel")}

    for kernel in kernels:
        kernel.scores.set_rate(0.09)
    table = rate_table(pruned)
    total = sum(row["weights"] for row in table.values())
    assert sum(row["kept"] for row in table.values()) <= 0.1 * total
    plain = strip(pruned)
    assert plain.get_config() == model.get_config()
    assert kernel_nonzeros(plain) == {path: (row["weights"], row["kept"]) for path, row in table.items()}
    images = inputs_for(model, batch=2)
    logits = np.asarray(pruned(images))
    np.testing.assert_array_equal(plain(images), logits)

    pruned.save(tmp_path / "pruned.keras")
    again = keras.models.load_model(tmp_path / "pruned.keras", safe_mode=True)
    np.testing.assert_array_equal(again(images), logits)
