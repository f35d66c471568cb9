"""Pruning by channels, from a dense model to a plain one that lacks them."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf import models
from harp_tf.compression import cost_budget
from harp_tf.layers import (
    budget_of,
    describe,
    fixed_cost,
    kernel_costs,
    kernel_nonzeros,
    layer_costs,
    masked_kernels,
    project_to_budget,
    prune,
    pruned_kernels,
    rate_table,
    set_stage,
    shared_kernels,
    strip,
)
from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import walk
from harp_tf.types import HarpError
from tests.layers import topologies
from tests.layers.nets import randomise_scores


def by_channels(model, sparsity=0.05, **options):
    return prune(model, sparsity, granularity="channel", verbose=False, **{"channel_multiple": 1, **options})


def numpy_logits(model, inputs):
    return [np.asarray(output) for output in keras.tree.flatten(model(inputs, training=False))]


def removed_outputs(model) -> list[tuple[keras.Variable, keras.Variable, int, np.ndarray]]:
    """Kernel, bias, axis of outputs, and which outputs are made by zeros alone, of layers that have such outputs."""
    found = []
    for _, layer in walk(model):
        kernel = getattr(layer, "pointwise_kernel", getattr(layer, "kernel", None))
        if kernel is not None and not isinstance(layer, layers.DepthwiseConv2D):
            axis = len(kernel.shape) - (2 if isinstance(layer, layers.Conv2DTranspose) else 1)
            values = np.moveaxis(np.asarray(kernel), axis, -1)
            dead = ~values.any(axis=tuple(range(values.ndim - 1)))
            if dead.any():
                found.append((kernel, layer.bias, axis, dead))
    return found


def check_removal(dense) -> int:
    """Prunes a model with random masks and checks that what was removed matters to no logit; counts what was."""
    inputs = topologies.example(dense)
    inputs = inputs[0] if len(inputs) == 1 else inputs
    pruned = randomise_scores(by_channels(dense, 0.01))
    project_to_budget(pruned)
    expected = numpy_logits(pruned, inputs)
    plain = strip(pruned)
    assert not any(isinstance(layer, PrunedLayer) for _, layer in walk(plain))
    for mine, theirs in zip(numpy_logits(plain, inputs), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    draws = np.random.default_rng(1)
    found = removed_outputs(plain)
    for kernel, bias, axis, dead in found:
        assert not np.asarray(bias)[dead].any()
        bias.assign(np.where(dead, draws.normal(size=dead.shape), bias))
        column = dead.reshape([-1 if a == axis else 1 for a in range(len(kernel.shape))])
        kernel.assign(np.where(column, draws.normal(size=kernel.shape), kernel))
    for mine, theirs in zip(numpy_logits(plain, inputs), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    return sum(int(dead.sum()) for *_, dead in found)


@pytest.mark.parametrize("topology", topologies.ALL)
def test_nobody_reads_a_removed_channel(topology):
    assert check_removal(topology()) > 0


@pytest.mark.parametrize("seed", range(4))
def test_nobody_reads_a_removed_channel_of_a_random_graph(seed):
    check_removal(topologies.random_graph(seed))


@pytest.mark.slow
def test_nobody_reads_a_removed_channel_of_fifty_random_graphs():
    assert sum(check_removal(topologies.random_graph(seed)) > 0 for seed in range(4, 54)) >= 45


# Counts and the budget -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["weights", "flops"])
@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize(
    "name, shape", [("vgg28", (28, 28, 1)), pytest.param("resnet18", (16, 16, 3), marks=pytest.mark.slow)]
)
def test_the_promise_is_kept_in_numbers_of_the_wanted_multiple(name, shape, budget, multiple):
    dense = models.build(name, shape, 10, width=0.25)
    model = by_channels(dense, 0.5, budget=budget, channel_multiple=multiple)
    randomise_scores(model)
    for kernel in pruned_kernels(model):
        kernel.scores.set_rate(0.9)
    assert not budget_of(model).met
    assert project_to_budget(model)
    found = budget_of(model)
    assert found.met and found.kept > 0.85 * found.permitted
    for kernel in pruned_kernels(model):
        count, size = kernel.scores.kept(), kernel.scores.size
        assert (
            count % multiple == 0 or size < 2 * multiple or count in (kernel.scores.least(), size) or count < multiple
        )
        assert count == kernel.scores.mask().numpy().sum() == rate_table(model)[kernel.path]["kept_channels"]
    assert project_to_budget(model) is False
    assert budget_of(model) == found

    # Counted anew on the stripped model: what is left of the kernels fits the budget too.
    plain = strip(model)
    costs, left = layer_costs(plain), kernel_nonzeros(plain)
    unit = {"weights": "weights", "flops": "multiply_adds"}[budget]
    total = sum(getattr(cost, unit) for cost in costs.values())
    kept = sum(getattr(cost, unit) * left[path][1] / left[path][0] for path, cost in costs.items())
    assert total == found.total
    assert kept <= found.permitted == cost_budget(total, 0.5)


@pytest.mark.slow
def test_a_mobilenet_at_half_its_multiply_adds():
    dense = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    model = by_channels(dense, 0.5, budget="flops", channel_multiple=8)
    assert len(pruned_kernels(model)) == 25
    project_to_budget(model)
    assert budget_of(model).met
    for kernel in pruned_kernels(model):
        assert kernel.scores.kept() % 8 == 0 or kernel.scores.size < 16 or kernel.scores.kept() < 8
    plain = strip(model)
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(plain(images), model(images), rtol=1e-5, atol=1e-6)


def test_numbers_within_the_budget_are_rounded_too():
    model = by_channels(models.build("vgg28", (28, 28, 1), 10, width=0.5), 0.5, channel_multiple=8)
    for kernel in pruned_kernels(model):
        kernel.scores.set_count(min(13, kernel.scores.size))
    assert project_to_budget(model) is False
    assert [kernel.scores.kept() for kernel in pruned_kernels(model)] == [8, 16, 16, 16, 16, 16, 16]
    for kernel in pruned_kernels(model):
        assert all(copy.kept() == kernel.scores.kept() for copy in kernel.copies)


def test_costs_of_spaces_and_of_what_is_fixed():
    model = by_channels(topologies.residual())
    # a1 reads six channels and makes five, b1 and the projection make eight of them.
    expected = {"a1/inputs": 6 * (45 + 72 + 8), "a2/inputs": 5 * 54, "b2/inputs": 8 * 72, "logits/inputs": 8 * 4}
    assert dict(zip([k.path for k in pruned_kernels(model)], kernel_costs(model), strict=True)) == expected
    assert {path: row["weights"] for path, row in rate_table(model).items()} == expected
    assert fixed_cost(model) == 3 * 54
    flops = by_channels(topologies.residual(), budget="flops")
    assert kernel_costs(flops) == [6 * (45 * 64 + 72 * 16 + 8 * 16), 5 * 54 * 64, 8 * 72 * 16, 8 * 4]
    assert fixed_cost(flops) == 3 * 54 * 64


def test_a_budget_below_what_is_fixed():
    with pytest.raises(
        HarpError, match="A budget of 23 of 239 weights cannot be met: 162 of them are spent on channels"
    ):
        by_channels(
            keras.Sequential(
                [
                    keras.Input((8, 8, 3)),
                    layers.Conv2D(6, 3),
                    layers.GlobalAveragePooling2D(),
                    layers.Dense(7),
                    layers.Dense(5),
                ]
            ),
            0.9,
        )


# The other verbs -----------------------------------------------------------------------------------------------------


def test_the_table_names_spaces_and_what_is_kept_whole():
    model = by_channels(models.build("resnet18", (16, 16, 3), 10, width=0.125), 0.5)
    text = describe(model, {"stem_conv": "its input channels are fixed: an input of the model"})
    assert "stage1_block1_conv1/inputs" in text
    assert "not pruned: stem_conv (its input channels are fixed: an input of the model)" in text
    assert "stage1_block2_conv1" not in text  # reads what the first block reads
    assert "  4 of 8 channels\n" in text and "single" not in text
    pruned_kernels(model)[0].scores.set_count(1)
    assert "  1 of 8 channels, the network hangs on a single one\n" in describe(model)


def test_modes_strategies_and_bounds():
    dense = topologies.chain()
    scored = by_channels(dense, 0.5, mode="score")
    assert budget_of(scored).met
    assert not any(k.scores.logit.trainable for k in pruned_kernels(scored))
    lamp = by_channels(dense, strategy="lamp", initial_rate=0.6)
    assert len({round(float(k.scores.rate()), 3) for k in pruned_kernels(lamp)}) > 1
    bounded = by_channels(dense, 0.1, rate_bounds={"conv2": (1, 1), "logits": (None, 0.5)})
    kept = {path: row["kept_channels"] for path, row in rate_table(bounded).items()}
    assert kept["conv2/inputs"] == 6 and kept["logits/inputs"] <= 4


def test_only_the_first_reader_trains_and_the_others_follow():
    model = by_channels(topologies.residual())
    trained = {id(v) for v in model.trainable_variables}
    (space,) = [kernel for kernel in pruned_kernels(model) if kernel.path == "a1/inputs"]
    assert {id(space.scores.scores), id(space.scores.logit)} <= trained
    assert not any(id(v) in trained for copy in space.copies for v in copy.variables)
    space.scores.scores.assign([3, 1, 2, 5, 4, 6])
    space.scores.set_count(2)
    set_stage(model, "finetune")
    for copy in space.copies:
        assert copy.mask().numpy().tolist() == [0, 0, 0, 1, 0, 1]
    assert {id(v) for v in model.trainable_variables} == {
        id(v) for layer in model.layers if layer.weights for v in layer.base_variables()
    }


@pytest.mark.parametrize("topology", [topologies.dense_block, topologies.separable, topologies.nested])
def test_a_half_pruned_model_comes_back_from_its_file(topology, tmp_path):
    model = randomise_scores(by_channels(topology()))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    inputs = topologies.example(model)
    for mine, theirs in zip(numpy_logits(again, inputs[0]), numpy_logits(model, inputs[0]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert rate_table(again) == rate_table(model)
    assert [len(k.copies) for k in pruned_kernels(again)] == [len(k.copies) for k in pruned_kernels(model)]
    assert kernel_nonzeros(strip(again)) == kernel_nonzeros(strip(model))


def test_predictions_layer_by_layer_are_those_of_the_whole_model():
    model = randomise_scores(by_channels(topologies.residual()))
    (inputs,) = topologies.example(model)
    alone = numpy_logits(model, inputs)
    with shared_kernels(masked_kernels(model)):
        np.testing.assert_array_equal(numpy_logits(model, inputs), alone)


def test_a_grouped_convolution_keeps_its_inputs_and_counts():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1, name="conv")(image)
    x = layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    dense = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))
    model = by_channels(dense)
    assert list(rate_table(model)) == ["logits/inputs"]
    assert fixed_cost(model) == 3 * 6 + 3 * 4
    check_removal(dense)


def test_layers_that_cannot_be_pruned_by_channels_are_named():
    tokens = keras.Input((5, 8))
    x = layers.Dense(6, name="embed")(tokens)
    x = x + layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    y = layers.Dense(12, activation="gelu", name="wide")(layers.LayerNormalization(name="norm")(x))
    model = keras.Model(tokens, x + layers.EinsumDense("abc,cd->abd", (5, 6), name="narrow")(y))
    with pytest.raises(HarpError) as error:
        by_channels(model)
    assert "has no layer that can be pruned" in str(error.value)
    assert "narrow: how EinsumDense reads its input channels here is not known" in str(error.value)
    assert "wide: its input channels are fixed: made by norm (LayerNormalization)" in str(error.value)


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.ones((1, 4), np.float32))
    with pytest.raises(
        HarpError, match="whose graph is not known. Build it with keras.Sequential or the functional API"
    ):
        by_channels(model)
