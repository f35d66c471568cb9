"""What holds for every registered layer once it is in a model; the layer alone is in test_pruned.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.layers import kernel_nonzeros, prune, pruned_kernels, rate_table, strip
from tests.layers.nets import randomise_scores
from tests.layers.zoo import LAYERS, inputs_for, randomise


@pytest.fixture(params=LAYERS)
def pruned(request):
    layer_class, options, shape = LAYERS[request.param]
    inputs = keras.Input(shape)
    model = randomise(keras.Model(inputs, layer_class(**options, name="layer")(inputs)))
    return randomise_scores(prune(model, 0.5, verbose=False), 0.2, 0.45, seed=1)


def test_strip_keeps_the_outputs_and_the_counts(pruned):
    plain = strip(pruned)
    assert type(plain.layers[-1]) is pruned.layers[-1].base_class
    inputs = inputs_for(pruned)
    np.testing.assert_array_equal(plain(inputs), pruned(inputs))
    counts = {path: (row["weights"], row["kept"]) for path, row in rate_table(pruned).items()}
    assert kernel_nonzeros(plain) == counts
    assert all(kept < weights for weights, kept in counts.values())


def test_a_saved_model_is_the_same_model(pruned, tmp_path):
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    inputs = inputs_for(pruned)
    np.testing.assert_array_equal(again(inputs), pruned(inputs))
    assert rate_table(again) == rate_table(pruned)


@pytest.mark.slow  # two seconds of compiling each
def test_compiled_by_xla(pruned):
    inputs = tf.constant(inputs_for(pruned))
    sources = [v.value for kernel in pruned_kernels(pruned) for v in kernel.scores.variables]

    def step(inputs):
        with tf.GradientTape() as tape:
            outputs = pruned(inputs)
            loss = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(loss, sources)

    found = keras.tree.flatten(tf.function(step, jit_compile=True)(inputs))
    for mine, eager in zip(found, keras.tree.flatten(step(inputs)), strict=True):
        scale = np.abs(eager).max()
        assert scale > 0
        np.testing.assert_allclose(mine, eager, rtol=1e-4, atol=1e-5 * scale)
