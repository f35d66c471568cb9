"""Training in short floating-point numbers, by a network that stays float32."""

import keras
import numpy as np
import pytest

from harp_tf.layers import pruned_kernels
from harp_tf.training import computing_in

KINDS = ("mixed_bfloat16", "mixed_float16")


@pytest.mark.parametrize("precision", KINDS)
def test_a_network_computes_in_it_only_inside(pruned, trainer_of, data, precision):
    network = pruned()
    before = network(data[0]).numpy()
    with computing_in(network, precision):
        short = network(data[0])
        assert f"mixed_{short.dtype.name}" == precision
        assert {kernel.scores.mask().dtype.name for kernel in pruned_kernels(network)} == {"float32"}
        scaled = isinstance(trainer_of(network).optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (precision == "mixed_float16")
    after = network(data[0])
    assert after.dtype.name == "float32" and {v.dtype for v in network.trainable_variables} == {"float32"}
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(before, keras.ops.cast(short, "float32"), atol=0.05)
    assert (before != keras.ops.convert_to_numpy(keras.ops.cast(short, "float32"))).any()


@pytest.mark.parametrize("precision", KINDS)
def test_it_trains_and_saves_float32(pruned, trainer_of, fit, precision, tmp_path):
    network = pruned()
    with computing_in(network, precision):
        history = fit(trainer_of(network, compile={"run_eagerly": False}), epochs=2, batch_size=24)
    assert np.isfinite(history["loss"]).all()
    network.save(tmp_path / "x.keras")
    assert keras.saving.load_model(tmp_path / "x.keras").dtype_policy.name == "float32"


def test_layers_with_a_precision_of_their_own_keep_it():
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, dtype="mixed_float16"), keras.layers.Dense(3, dtype="float64")]
    )
    with computing_in(network, "mixed_bfloat16"):
        assert [layer.compute_dtype for layer in network.layers] == ["float16", "float64"]
    assert [layer.compute_dtype for layer in network.layers] == ["float16", "float64"]


def test_the_precision_comes_back_after_an_error(classifier):
    network = classifier()
    with pytest.raises(RuntimeError), computing_in(network, "mixed_bfloat16"):
        raise RuntimeError
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
