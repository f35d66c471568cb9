"""Reading and steering the pruned kernels of a model."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.compression import logit_bounds, rate_from_logit
from harp_tf.layers import (
    kernel_costs,
    kernel_nonzeros,
    masked_kernels,
    project_to_budget,
    prune,
    pruned_kernels,
    pruning_spec,
    rate_table,
    set_stage,
    strip,
)
from harp_tf.types import HarpError, PruningSpec


def small_net(**dense):
    """50,314 prunable weights in kernels of very different sizes."""
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(16, 3, name="conv1", use_bias=False),
            layers.BatchNormalization(name="norm1"),
            layers.ReLU(name="relu1"),
            layers.Conv2D(10, 3, strides=2, name="conv2"),
            layers.Flatten(name="flatten"),
            layers.Dense(300, name="dense1", activation="relu"),
            layers.Dense(7, name="dense2", **dense),
        ]
    )


SIZES = [144, 1440, 48_000, 2100]


def trained(model, seed=0):
    """Sets rate logits and scores as a training might leave them."""
    draws = np.random.default_rng(seed)
    for kernel in pruned_kernels(model):
        kernel.scores.scores.assign(draws.normal(size=kernel.scores.shape))
        low, high = logit_bounds(pruning_spec(model).minimum_rate)
        kernel.scores.logit.assign(draws.uniform(low, high))
    kernel = max(pruned_kernels(model), key=lambda k: k.scores.size)
    kernel.scores.logit.assign(draws.uniform(0, high))  # over the budget, whatever the others draw
    return model


def test_kernels_in_the_order_of_the_network():
    model = prune(small_net(), 0.9, verbose=False)
    kernels = pruned_kernels(model)
    assert [k.path for k in kernels] == ["conv1/kernel", "conv2/kernel", "dense1/kernel", "dense2/kernel"]
    assert [k.scores.size for k in kernels] == SIZES
    for kernel in kernels:
        assert kernel.variable is kernel.layer.kernel
        assert kernel.scores is kernel.layer.kernel_scores[0]
    assert pruned_kernels(small_net()) == []


def test_the_spec_of_a_model():
    model = prune(small_net(), 0.95, mode="rate", budget="flops", floor_factor=0.2, verbose=False)
    assert pruning_spec(model) == PruningSpec(0.95, "rate", "flops", 0.2)
    with pytest.raises(HarpError, match=r"has no pruned layers. Wrap it first: harp_tf.prune\(model, target_sparsity"):
        pruning_spec(small_net())


def test_rate_table():
    model = trained(prune(small_net(), 0.9, verbose=False))
    table = rate_table(model)
    assert [row["weights"] for row in table.values()] == SIZES
    for kernel in pruned_kernels(model):
        row = table[kernel.path]
        assert row["rate"] == float(rate_from_logit(kernel.scores.logit.value, 0.01))
        assert row["kept"] == np.ceil(row["rate"] * row["weights"]) == kernel.scores.mask().numpy().sum()


def test_masked_kernels_of_the_whole_model():
    model = trained(prune(small_net(), 0.9, verbose=False))
    kernels = masked_kernels(model)
    assert len(kernels) == 4
    for kernel in pruned_kernels(model):
        expected = kernel.variable.numpy() * kernel.scores.mask().numpy()
        np.testing.assert_array_equal(kernels[id(kernel.variable)], expected)


# Costs -----------------------------------------------------------------------------------------------------------


def costs(model, budget="flops"):
    pruned = prune(model, 0.5, budget=budget, verbose=False)
    return dict(zip([k.path for k in pruned_kernels(pruned)], kernel_costs(pruned), strict=True))


def test_costs_in_weights():
    assert list(costs(small_net(), "weights").values()) == SIZES


def test_costs_in_multiply_adds():
    # 10x10 outputs of the first convolution, 4x4 of the second.
    assert list(costs(small_net()).values()) == [144 * 100, 1440 * 16, 48_000, 2100]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Conv1D(6, 3, padding="same"), (10, 4), [3 * 4 * 6 * 10]),
        (layers.Conv2D(8, 3, strides=2, padding="same", groups=2), (9, 9, 4), [3 * 3 * 2 * 8 * 25]),
        (layers.Conv3D(2, 2), (4, 5, 6, 3), [8 * 3 * 2 * 3 * 4 * 5]),
        (layers.Conv2DTranspose(5, 3, strides=2), (7, 7, 4), [3 * 3 * 4 * 5 * 49]),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 4), [9 * 4 * 2 * 16]),
        (layers.SeparableConv2D(5, 3, strides=2), (7, 7, 4), [9 * 4 * 9, 4 * 5 * 9]),
        (layers.Dense(5), (3, 6, 4), [4 * 5 * 18]),
        (layers.Conv2D(8, 3, data_format="channels_first"), (3, 9, 7), [9 * 3 * 8 * 35]),
    ],
)
def test_multiply_adds_of_a_layer(layer, shape, expected):
    assert list(costs(keras.Sequential([keras.Input(shape), layer])).values()) == expected


def test_a_shared_layer_costs_every_call():
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    trunk = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 1, name="inner")], name="trunk")
    inputs = keras.Input((8, 8, 4))
    half = layers.AveragePooling2D(2)(shared(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(shared(half)) + 0.0))
    assert costs(model) == {"shared/kernel": 144 * (64 + 16), "head/kernel": 64 * 2}
    twice = keras.Model(inputs, trunk(trunk(inputs)))
    assert costs(twice) == {"trunk/inner/kernel": 16 * 64 * 2}


def test_costs_of_models_with_several_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((5, 3), name="b", dtype="float32")
    outputs = layers.Concatenate()([layers.Dense(3, name="x")(a), layers.Flatten()(layers.Dense(2, name="y")(b))])
    for inputs in ([a, b], {"a": a, "b": b}):
        assert costs(keras.Model(inputs, outputs)) == {"x/kernel": 12, "y/kernel": 30}


def test_multiply_adds_need_an_input_size():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()], name="open"
    )
    assert list(costs(model, "weights").values()) == [108]
    with pytest.raises(HarpError, match=r"FLOPs of model 'open' depend on its input size, .*None.* budget='weights'"):
        prune(model, 0.5, budget="flops", verbose=False)


# The promise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99, 0.995, 0.999])
def test_projection_keeps_the_promise(sparsity):
    model = trained(prune(small_net(), sparsity, verbose=False), seed=round(1000 * sparsity))
    budget = round(sum(SIZES) * (1 - sparsity) - 0.5 + 1e-6)
    before = [kernel.scores.scores.numpy() for kernel in pruned_kernels(model)]
    assert sum(row["kept"] for row in rate_table(model).values()) > budget
    assert project_to_budget(model) is True
    assert sum(row["kept"] for row in rate_table(model).values()) == budget
    for kernel, scores in zip(pruned_kernels(model), before, strict=True):
        mask = kernel.scores.mask().numpy()
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.sum() == kernel.scores.kept() >= 1
        np.testing.assert_array_equal(kernel.scores.scores, scores)
        # A step of the optimiser applies the bounds of the logits; they must not break the promise.
        kernel.scores.logit.assign(kernel.scores.logit.constraint(kernel.scores.logit))
    kept = {path: (row["weights"], row["kept"]) for path, row in rate_table(model).items()}
    assert sum(count for _, count in kept.values()) == budget
    assert kernel_nonzeros(strip(model)) == kernel_nonzeros(model) == kept
    assert project_to_budget(model) is False


def test_rates_within_the_budget_stay():
    model = trained(prune(small_net(), 0.9, verbose=False))
    for kernel in pruned_kernels(model):
        kernel.scores.set_rate(0.09)
    before = rate_table(model)
    assert project_to_budget(model) is False
    assert rate_table(model) == before


def test_a_network_at_the_upper_bounds_is_projected():
    model = prune(small_net(), 0.999, verbose=False)
    for kernel in pruned_kernels(model):
        kernel.scores.logit.assign(38.7)
    assert project_to_budget(model)
    assert sum(count for _, count in kernel_nonzeros(model).values()) == 51


# Stages ----------------------------------------------------------------------------------------------------------

SCORES = {"conv1/scores", "conv2/scores", "dense1/scores", "dense2/scores"}
LOGITS = {"conv1/rate_logit", "conv2/rate_logit", "dense1/rate_logit", "dense2/rate_logit"}
NORM = {"norm1/gamma", "norm1/beta"}
WEIGHTS = {"conv1/kernel", "conv2/kernel", "conv2/bias", "dense1/kernel", "dense1/bias", "dense2/kernel", "dense2/bias"}


def trained_variables(model):
    names = {id(v): f"{layer.name}/{v.name}" for layer in model.layers for v in layer.variables}
    return {names[id(v)] for v in model.trainable_variables}


@pytest.mark.parametrize(
    ("mode", "expected"), [("harp", SCORES | LOGITS | NORM), ("score", SCORES | NORM), ("rate", LOGITS | NORM)]
)
def test_what_each_stage_trains(mode, expected):
    model = prune(small_net(), 0.9, mode=mode, verbose=False)
    for _ in range(2):
        assert trained_variables(model) == expected
        set_stage(model, "finetune")
        assert trained_variables(model) == WEIGHTS | NORM
        set_stage(model, "prune")


def test_frozen_layers_stay_frozen():
    model = small_net()
    model.get_layer("conv2").trainable = False
    model.get_layer("norm1").trainable = False
    pruned = prune(model, 0.9, verbose=False)
    pruned.get_layer("dense2").trainable = False  # frozen later, by the user
    for stage, expected in {
        "prune": {"conv1/scores", "dense1/scores", "conv1/rate_logit", "dense1/rate_logit"},
        "finetune": {"conv1/kernel", "dense1/kernel", "dense1/bias"},
    }.items():
        set_stage(pruned, stage)
        assert trained_variables(pruned) == expected


def test_normalisation_of_every_kind_trains_while_pruning():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, name="dense"),
            layers.LayerNormalization(name="layer"),
            layers.GroupNormalization(2, name="group"),
            layers.RMSNormalization(name="rms"),
            layers.PReLU(name="prelu"),
        ]
    )
    trained = trained_variables(prune(model, 0.5, verbose=False))
    assert {"layer/gamma", "layer/beta", "group/gamma", "group/beta", "rms/scale"} <= trained
    assert "prelu/alpha" not in trained


def test_weights_of_a_stage_stay_where_they_are():
    """A real optimiser step with momentum and decay in each stage: only what the stage trains may change."""
    model = prune(small_net(kernel_regularizer=keras.regularizers.L2(0.1)), 0.5, verbose=False)
    images = np.random.default_rng(0).normal(size=(16, 12, 12, 1)).astype(np.float32)
    labels = np.arange(16) % 7
    for stage in ("prune", "finetune"):
        set_stage(model, stage)
        names = trained_variables(model)
        before = {id(v): v.numpy() for v in model.variables}
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1), "sparse_categorical_crossentropy")
        model.fit(images, labels, epochs=2, batch_size=8, verbose=0)
        for layer in model.layers:
            for v in layer.variables:
                changed = not np.array_equal(before[id(v)], v.numpy())
                name = f"{layer.name}/{v.name}"
                assert changed == (name in names or name.startswith("norm1/moving")), f"{name} in {stage}"
    # Weights that were removed stay removed, whatever momentum and decay did to the variables.
    for path, (size, nonzero) in kernel_nonzeros(strip(model)).items():
        assert nonzero == rate_table(model)[path]["kept"] < size


def test_an_unknown_stage():
    with pytest.raises(HarpError, match="stage must be one of prune, finetune, received 'pretrain'"):
        set_stage(prune(small_net(), 0.9, verbose=False), "pretrain")
    with pytest.raises(HarpError, match="has no pruned layers"):
        set_stage(small_net(), "prune")
