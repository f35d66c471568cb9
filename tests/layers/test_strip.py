"""The verb `strip`: from a pruned model back to a plain one; saved files of both."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harp_tf.layers import kernel_nonzeros, prune, pruned_kernels, pruning_spec, rate_table, strip
from harp_tf.layers.rebuild import walk
from harp_tf.types import HarpError, PruningSpec
from tests.layers.nets import IMAGES, MODELS, functional, nested, outputs_of, randomise_scores, sequential

ROOT = Path(__file__).parents[2]


def half_pruned(model, sparsity=0.7):
    """Scores and rates as a training might leave them, within the budget."""
    return randomise_scores(prune(model, sparsity, verbose=False), 0.1, 1 - sparsity - 0.01, seed=2)


def test_strip_gives_a_plain_model_with_the_same_outputs(model):
    pruned = half_pruned(model)
    plain = strip(pruned)
    assert all(type(layer).__module__.startswith("keras.") for _, layer in walk(plain))
    assert plain.get_config() == model.get_config()
    assert [v.name for v in plain.variables] == [v.name for v in model.variables]
    for found, expected in zip(outputs_of(plain), outputs_of(pruned), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert kernel_nonzeros(plain) == {p: (r["weights"], r["kept"]) for p, r in rate_table(pruned).items()}
    for variable in plain.variables:
        if "kernel" in variable.name:
            values = variable.numpy()
            assert not np.signbit(values[values == 0]).any(), "negative zeros do not compress"
    assert pruned_kernels(pruned), "the pruned model stays as it was"


def test_strip_can_be_trained_and_pruned_again():
    plain = strip(half_pruned(sequential()))
    assert len(plain.trainable_variables) == len(sequential().trainable_variables)
    assert pruning_spec(prune(plain, 0.5, verbose=False)) == PruningSpec(0.5)


def test_strip_keeps_frozen_layers_frozen():
    model = functional()
    model.get_layer("shared").trainable = False
    model.get_layer("norm").trainable = False
    plain = strip(prune(model, 0.5, mode="score", verbose=False))
    assert {layer.name for layer in plain.layers if not layer.trainable} == {"shared", "norm"}
    assert len(plain.trainable_variables) == len(model.trainable_variables)


def test_strip_projects_rates_that_exceed_the_budget(capsys):
    pruned = prune(sequential(), 0.9, verbose=False)
    for kernel in pruned_kernels(pruned):
        kernel.scores.set_rate(0.4)
    plain = strip(pruned)
    assert "exceeded the target sparsity and were projected" in capsys.readouterr().out
    assert sum(count for _, count in kernel_nonzeros(plain).values()) == 124


def test_strip_needs_a_pruned_model():
    with pytest.raises(HarpError, match="has no pruned layers. Wrap it first"):
        strip(sequential())


CHILD = """
import sys
import keras, numpy as np
folder = sys.argv[1]
images = np.load(folder + "/images.npy")
results = {}
def evaluate(model, name):
    for i, x in enumerate(keras.tree.flatten(model(images))):
        results[f"{name}/{i}"] = np.asarray(x)
sys.modules["harp_tf"] = None  # importing it raises
for name in ("sequential", "functional", "nested"):
    evaluate(keras.models.load_model(f"{folder}/{name}_plain.keras"), name + "_plain")
try:
    keras.models.load_model(f"{folder}/sequential_pruned.keras")
    results["refused"] = np.array(False)
except TypeError:
    results["refused"] = np.array(True)
del sys.modules["harp_tf"]
import harp_tf.layers
for name in ("sequential", "functional", "nested"):
    model = keras.models.load_model(f"{folder}/{name}_pruned.keras", safe_mode=True)
    evaluate(model, name + "_pruned")
    for i, variable in enumerate(model.variables):
        results[f"{name}_variables/{i}"] = variable.numpy()
    results[f"{name}_kept"] = np.array([row["kept"] for row in harp_tf.layers.rate_table(model).values()])
np.savez(folder + "/results.npz", **results)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Models saved here, and what a fresh process made of the files."""
    folder = tmp_path_factory.mktemp("saved")
    np.save(folder / "images.npy", IMAGES)
    models = {}
    for name, build in MODELS.items():
        models[f"{name}_pruned"] = half_pruned(build())
        models[f"{name}_plain"] = strip(models[f"{name}_pruned"])
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, cwd=ROOT)
    return models, np.load(folder / "results.npz")


@pytest.mark.parametrize("name", MODELS)
def test_a_stripped_model_loads_where_harp_tf_cannot_be_imported(loaded, name):
    models, results = loaded
    for i, expected in enumerate(outputs_of(models[f"{name}_plain"])):
        np.testing.assert_array_equal(results[f"{name}_plain/{i}"], expected)
    assert results["refused"]  # the pruned one does need harp_tf: the import was really blocked


@pytest.mark.parametrize("name", MODELS)
def test_a_half_pruned_model_loads_in_a_fresh_process(loaded, name):
    models, results = loaded
    model = models[f"{name}_pruned"]
    for i, expected in enumerate(outputs_of(model)):
        np.testing.assert_array_equal(results[f"{name}_pruned/{i}"], expected)
    for i, variable in enumerate(model.variables):
        np.testing.assert_array_equal(results[f"{name}_variables/{i}"], variable, err_msg=variable.path)
    assert results[f"{name}_kept"].tolist() == [row["kept"] for row in rate_table(model).values()]


def test_weights_files(tmp_path):
    pruned = half_pruned(nested())
    pruned.save_weights(tmp_path / "pruned.weights.h5")
    again = prune(nested(), 0.7, verbose=False)
    again.load_weights(tmp_path / "pruned.weights.h5")
    for found, expected in zip(again.variables, pruned.variables, strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=expected.path)
