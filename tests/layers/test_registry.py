"""Which layers can be pruned, and how a user adds one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf.layers as pruning
from harp_tf.layers import registry
from harp_tf.types import HarpError


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    monkeypatch.setattr(registry, "_PRUNED", dict(registry._PRUNED))


@keras.saving.register_keras_serializable("test_registry")
class Scaled(keras.layers.Layer):
    """A custom layer with a kernel, a loss of its own and a state that its call updates; `x` is its argument."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.table = self.add_weight(name="table", shape=(self.units, input_shape[-1]))
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        self.add_loss(keras.ops.mean(self.table))
        if training:
            self.calls.assign_add(1.0)
        return keras.ops.matmul(x, keras.ops.transpose(self.table))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def register_scaled():
    pruning.register_kernels(Scaled, pruning.Kernel("table", output_axes=(0,)))


def model_with_scaled():
    return keras.Sequential([keras.Input((6,)), Scaled(5, name="scaled"), keras.layers.Dense(3, name="dense")])


def test_registered_layers():
    names = ("Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D")
    names += ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
    for name in names:
        layer_class = getattr(keras.layers, name)
        assert [kernel.name for kernel in pruning.kernels_of(layer_class)] == ["kernel"]
        pruned = pruning.pruned_class(layer_class)
        assert issubclass(pruned, (pruning.PrunedLayer, layer_class))
        assert pruned.__name__ == f"Pruned{name}"
        assert keras.saving.get_registered_object(f"harp_tf>Pruned{name}") is pruned
    for name in ("SeparableConv1D", "SeparableConv2D"):
        found = [kernel.name for kernel in pruning.kernels_of(getattr(keras.layers, name))]
        assert found == ["depthwise_kernel", "pointwise_kernel"]


def test_only_the_class_itself_is_known():
    class Special(keras.layers.Dense):
        pass

    assert pruning.kernels_of(Special) == ()
    assert pruning.kernels_of(keras.layers.Flatten) == ()
    with pytest.raises(HarpError, match=r"No prunable kernels are known for Special. Register .*register_kernels"):
        pruning.pruned_class(Special)


def test_one_line_makes_a_custom_layer_prunable(tmp_path):
    with pytest.raises(HarpError, match=r"scaled \(Scaled\)"):
        pruning.prune(model_with_scaled(), 0.5, strict=True)
    register_scaled()
    model = model_with_scaled()
    pruned = pruning.prune(model, 0.5, strict=True, verbose=False)
    assert [kernel.path for kernel in pruning.pruned_kernels(pruned)] == ["scaled/table", "dense/kernel"]
    scores = pruning.pruned_kernels(pruned)[0].scores
    scale = np.sqrt(6 / 6) / np.abs(model.layers[0].table.numpy()).max()  # fan-in is the last axis here
    np.testing.assert_allclose(scores.scores.numpy(), scale * model.layers[0].table.numpy(), rtol=1e-6)

    images = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    plain = pruning.strip(pruned)
    pruned.save(tmp_path / "pruned.keras")
    again = keras.models.load_model(tmp_path / "pruned.keras")
    assert type(plain.layers[0]) is Scaled
    for other in (again, plain):
        np.testing.assert_array_equal(other(images), pruned(images))


def test_losses_and_states_of_a_custom_layer_survive():
    register_scaled()
    pruned = pruning.prune(model_with_scaled(), 0.5, verbose=False)
    layer = pruned.layers[0]
    images = tf.ones((2, 6))
    for call in (pruned, tf.function(pruned)):
        before = float(layer.calls)
        call(images, training=False)
        assert float(layer.calls) == before
        call(images, training=True)
        assert float(layer.calls) == before + 1
    pruned(images)
    masked = layer.table.numpy() * layer.kernel_scores[0].mask().numpy()
    assert [float(loss) for loss in pruned.losses] == pytest.approx([masked.mean()])
    # In a functional call of Keras both come out through the scope.
    values = [v.value for v in pruned.non_trainable_variables]
    _, states, losses = pruned.stateless_call(
        [v.value for v in pruned.trainable_variables], values, images, training=True, return_losses=True
    )
    assert [float(loss) for loss in losses] == pytest.approx([masked.mean()])
    changed = [v.name for v, new in zip(pruned.non_trainable_variables, states) if not np.array_equal(v, new)]
    assert changed == ["calls"]


def test_the_argument_of_a_custom_call_keeps_its_name():
    register_scaled()
    layer = pruning.pruned_class(Scaled)(5, pruning={"target_sparsity": 0.5})
    inputs = tf.ones((2, 6))
    layer.build((2, 6))
    layer.kernel_scores[0].initialise(layer.table.numpy(), 0.5)
    np.testing.assert_array_equal(layer(x=inputs), layer(inputs))


def test_registering_again_replaces():
    register_scaled()
    pruning.register_kernels(Scaled, "table")
    assert pruning.kernels_of(Scaled)[0].output_axes == (-1,)


def test_two_classes_of_one_name():
    impostor = type("Dense", (keras.layers.Layer,), {"__module__": "other_package"})
    with pytest.raises(HarpError, match="A layer class Dense is registered already, from keras"):
        pruning.register_kernels(impostor, "kernel")
    assert keras.saving.get_registered_object("harp_tf>PrunedDense") is pruning.pruned_class(keras.layers.Dense)
    registered = keras.saving.register_keras_serializable("other_package")(impostor)
    pruning.register_kernels(registered, "kernel")
    assert pruning.pruned_class(registered).__name__ == "Prunedother_package.Dense"


@pytest.mark.parametrize("given", ["Dense", 3, None, dict, keras.layers.Dense(2)])
def test_only_layer_classes_can_be_registered(given):
    with pytest.raises(HarpError, match="expects a subclass of keras.layers.Layer, received"):
        pruning.register_kernels(given, "kernel")


def test_a_kernel_must_be_named():
    with pytest.raises(HarpError, match=r"register_kernels\(Scaled\) names no kernel; pass e.g. 'kernel'"):
        pruning.register_kernels(Scaled)
