"""What each stage trains, and the budget that a model has when it leaves the prune stage."""

import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.layers import budget_of, kernel_nonzeros, prune, pruned_kernels, rate_table, set_stage, strip
from harp_tf.types import HarpError
from tests.layers.nets import small_net

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
        set_stage(model, "joint")
        assert trained_variables(model) == expected | WEIGHTS
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
    for stage in ("prune", "joint", "finetune"):
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
    with pytest.raises(HarpError, match="stage must be one of prune, joint, finetune, received 'pretrain'"):
        set_stage(prune(small_net(), 0.9, verbose=False), "pretrain")
    with pytest.raises(HarpError, match="has no pruned layers"):
        set_stage(small_net(), "prune")


@pytest.mark.parametrize("mode", ["harp", "rate"])
@pytest.mark.parametrize("before", ["prune", "joint"])
def test_no_weight_above_the_budget_is_finetuned(mode, before, capsys):
    model = prune(small_net(), 0.95, mode=mode, verbose=False)  # at 10 %
    set_stage(model, before)
    assert not budget_of(model).met and capsys.readouterr().out == ""
    set_stage(model, "finetune")
    assert budget_of(model).met
    assert "exceeded the target sparsity and were projected" in capsys.readouterr().out
    kept = [kernel.scores.kept() for kernel in pruned_kernels(model)]
    strip(model)
    assert [kernel.scores.kept() for kernel in pruned_kernels(model)] == kept
    assert capsys.readouterr().out == ""


def test_masks_that_a_method_has_set_stay_until_it_is_done():
    model = prune(small_net(), 0.95, mode="score", verbose=False)
    for kernel in pruned_kernels(model):
        kernel.scores.set_count(kernel.scores.size)
    set_stage(model, "finetune")  # as of methods that train weights on the way to their masks
    assert all(kernel.scores.kept() == kernel.scores.size for kernel in pruned_kernels(model))
