"""What holds for every kind of model: the contract of `prune`, of saved files and of `strip`."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.layers import (
    PrunedLayer,
    kernel_nonzeros,
    masked_kernels,
    prune,
    pruned_kernels,
    rate_table,
    shared_kernels,
    strip,
)
from harp_tf.layers.rebuild import walk
from tests.layers.nets import randomise_scores
from tests.layers.zoo import COMPOSITES, MODELS, inputs_for, randomise

ROOT = Path(__file__).parents[2]


def outputs_of(model, inputs):
    return [np.asarray(x) for x in keras.tree.flatten(model(inputs))]


def half_pruned(model):
    return randomise_scores(prune(model, 0.6, verbose=False), 0.1, 0.38, seed=2)


@pytest.fixture(scope="module")
def zoo():
    """name -> (dense model, its pruned form); no test changes them."""
    dense = {name: randomise(build()) for name, build in MODELS.items()}
    return {name: (model, half_pruned(model)) for name, model in dense.items()}


each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_with_all_weights_it_equals_the_dense_model_bit_for_bit(name, zoo):
    model, _ = zoo[name]
    weights = model.get_weights()
    pruned = prune(model, 0.6, verbose=False)
    for kernel in pruned_kernels(pruned):
        kernel.scores.set_count(kernel.scores.size)
    inputs = inputs_for(model)
    for found, expected in zip(outputs_of(pruned, inputs), outputs_of(model, inputs), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected, err_msg="the dense model was changed")


@each_model
def test_no_variable_is_lost_and_every_kernel_is_pruned(name, zoo):
    model, pruned = zoo[name]
    assert [path for path, _ in walk(pruned)] == [path for path, _ in walk(model)]
    assert {kernel.path for kernel in pruned_kernels(pruned)} == set(kernel_nonzeros(model))
    learned = 2 * len(pruned_kernels(pruned))
    assert len(pruned.variables) == len(model.variables) + learned
    for kernel in pruned_kernels(pruned):
        assert any(kernel.variable is v for v in pruned.variables)
        assert any(kernel.scores.logit is v for v in pruned.trainable_variables)
    assert not {id(v) for v in model.variables} & {id(v) for v in pruned.variables}


@each_model
def test_masked_it_equals_the_stripped_model_with_exact_counts(name, zoo):
    model, pruned = zoo[name]
    plain = strip(pruned)
    assert kernel_nonzeros(plain) == {p: (r["weights"], r["kept"]) for p, r in rate_table(pruned).items()}
    inputs = inputs_for(model)
    for found, expected in zip(outputs_of(plain, inputs), outputs_of(pruned, inputs), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [type(layer) for _, layer in walk(plain)] == [type(layer) for _, layer in walk(model)]
    assert [layer.trainable for _, layer in walk(plain)] == [layer.trainable for _, layer in walk(model)]


@each_model
def test_every_score_and_rate_gets_its_gradient_and_masks_are_selected_once(name, zoo, count_selections):
    _, pruned = zoo[name]
    kernels = pruned_kernels(pruned)
    inputs = inputs_for(pruned)
    sources = [v.value for kernel in kernels for v in kernel.scores.variables]

    def gradients(inputs):
        with tf.GradientTape() as tape, shared_kernels(masked_kernels(pruned)):
            outputs = [pruned(inputs), pruned(inputs)]
            loss = sum(tf.reduce_sum(tf.math.sin(x)) for x in keras.tree.flatten(outputs))
        return tape.gradient(loss, sources)

    assert count_selections(gradients, keras.tree.map_structure(tf.constant, inputs)) == len(kernels)
    for variable, gradient in zip((v for k in kernels for v in k.scores.variables), gradients(inputs), strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all() and np.any(gradient), variable.path


@each_model
def test_weights_files(name, zoo, tmp_path):
    model, pruned = zoo[name]
    pruned.save_weights(tmp_path / "pruned.weights.h5")
    again = prune(model, 0.6, verbose=False)
    again.load_weights(tmp_path / "pruned.weights.h5")
    for found, expected in zip(again.variables, pruned.variables, strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=expected.path)


@pytest.mark.slow  # half a minute of compiling
def test_compiled_by_xla(zoo):
    _, pruned = zoo["transformer"]
    inputs = tf.constant(inputs_for(pruned))
    compiled = tf.function(pruned, jit_compile=True)
    np.testing.assert_allclose(compiled(inputs), pruned(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", COMPOSITES)
def test_paths_of_kernels_inside_of_other_layers(name, zoo):
    _, pruned = zoo[name]
    expected = [f"mixer/{path}" for path in COMPOSITES[name][1]]
    assert [kernel.path for kernel in pruned_kernels(pruned)] == [*expected, "head/kernel"]


def test_losses_of_activity_regularizers_stay():
    model = MODELS["custom block"]()
    pruned = half_pruned(model)
    inputs = inputs_for(model)
    pruned(inputs)
    plain = strip(pruned)
    plain(inputs)
    assert len(plain.losses) == 1
    np.testing.assert_array_equal([float(x) for x in pruned.losses], [float(x) for x in plain.losses])


# Saved files in fresh processes ----------------------------------------------------------------------------------

# The others are as in test_strip.py.
SAVED = ("transformer", "own functional", "subclassed", "subclass nested", "time distributed", "custom block")

CHILD = """
import sys
import keras, numpy as np
folder = sys.argv[1]
sys.modules["harp_tf"] = None  # importing it raises
from tests.layers.zoo import inputs_for
results = {}
def evaluate(model, name):
    for i, x in enumerate(keras.tree.flatten(model(inputs_for(model)))):
        results[f"{name}/{i}"] = np.asarray(x)
for name in sys.argv[2:]:
    evaluate(keras.models.load_model(f"{folder}/{name}_plain.keras"), name + "_plain")
del sys.modules["harp_tf"]
import harp_tf.layers
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{folder}/{name}_pruned.keras", safe_mode=True)
    evaluate(model, name + "_pruned")
    results[f"{name}_kept"] = np.array([row["kept"] for row in harp_tf.layers.rate_table(model).values()])
    evaluate(harp_tf.layers.strip(model), name + "_stripped")
np.savez(folder + "/results.npz", **results)
"""


@pytest.fixture(scope="module")
def loaded(zoo, tmp_path_factory):
    """What a fresh process made of the saved models, pruned ones and plain ones."""
    folder = tmp_path_factory.mktemp("saved")
    for name in SAVED:
        _, pruned = zoo[name]
        pruned.save(folder / f"{name}_pruned.keras")
        strip(pruned).save(folder / f"{name}_plain.keras")
    subprocess.run([sys.executable, "-c", CHILD, str(folder), *SAVED], check=True, cwd=ROOT)
    return np.load(folder / "results.npz")


@pytest.mark.parametrize("name", SAVED)
def test_half_pruned_models_resume_and_stripped_ones_need_no_harp_tf(name, zoo, loaded):
    _, pruned = zoo[name]
    for i, expected in enumerate(outputs_of(pruned, inputs_for(pruned))):
        for kind in ("pruned", "plain", "stripped"):
            np.testing.assert_array_equal(loaded[f"{name}_{kind}/{i}"], expected, err_msg=kind)
    assert loaded[f"{name}_kept"].tolist() == [row["kept"] for row in rate_table(pruned).values()]


def test_the_configuration_of_a_pruned_model_makes_it_again(zoo):
    """`get_config` of every class of the zoo, through `from_config`, without weights."""
    for name, (_, pruned) in zoo.items():
        for path, layer in walk(pruned):
            if path and type(layer).__module__.startswith("harp_tf"):
                again = type(layer).from_config(layer.get_config())
                assert again.get_config() == layer.get_config(), (name, path)
                assert isinstance(layer, PrunedLayer) == isinstance(again, PrunedLayer)
