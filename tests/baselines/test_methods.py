"""The table of methods, and what the settings of a run make of it."""

import dataclasses

import numpy as np
import pytest

from harp_tf import layers, pruning, strategies
from harp_tf.baselines import METHODS
from harp_tf.config import RunConfig
from harp_tf.types import HarpError
from tests.baselines.nets import SIZES, classifier

NAMES = [
    "harp",
    "harp_joint",
    "hydra",
    "hydra_erk",
    "hydra_lamp",
    "rate",
    "lwm",
    "lwm_layer",
    "radmm",
    "flying_bird",
    "flying_bird_plus",
    "random",
    "tfmot",
]


def test_the_names():
    assert list(METHODS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_all_methods_make_the_same_number_of_epochs(name):
    epochs = RunConfig(method=name, pretrain_epochs=7, prune_epochs=3, finetune_epochs=5).stage_epochs
    prune = {"lwm": 0, "lwm_layer": 0, "random": 0, "flying_bird": 8, "flying_bird_plus": 8}.get(name, 3)
    assert epochs == {"pretrain": 7, "prune": prune, "finetune": 8 - prune}


def wrapped_for(**settings):
    config = RunConfig(target_sparsity=0.75, **settings)
    return pruning.wrap(classifier(), config, pruning.strategy_of(config), sum(SIZES.values()), verbose=False)


@pytest.mark.parametrize("name", NAMES)
def test_what_learns_no_rates_starts_at_the_budget(name):
    network, method = wrapped_for(method=name), METHODS[name]
    spec = layers.pruning_spec(network)
    assert (spec.mode, spec.stage) == (method.mode, method.trains or "prune")
    if method.mode == "score":
        assert layers.budget_of(network).kept == layers.budget_of(network).permitted == sum(SIZES.values()) // 4


@pytest.mark.parametrize(("name", "strategy"), [("hydra_lamp", "lamp"), ("hydra_erk", "erk"), ("flying_bird", "igq")])
def test_rates_of_a_strategy(name, strategy):
    dense = classifier()
    infos = [strategies.KernelInfo(p, np.asarray(dense.get_layer(p.split("/")[0]).kernel)) for p in SIZES]
    wanted = strategies.get(strategy)(infos, 0.25)
    for path, row in layers.rate_table(wrapped_for(method=name)).items():
        assert abs(row["kept"] - wanted[path] * SIZES[path]) <= 1


def test_hydra_with_learned_rates_and_with_unpruned_layers(tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(
        '{"layers": {"conv/kernel": {"rate": 1.0}, "hidden/kernel": {"rate": 0.125}, "logits/kernel": 0.125}}'
    )
    table = layers.rate_table(wrapped_for(method="hydra", strategy=str(path)))
    assert [row["kept"] for row in table.values()] == [36, 24, 5]
    assert list(layers.rate_table(wrapped_for(method="hydra", skip=("conv", "logits")))) == ["hidden/kernel"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"method": "hydra_erk", "strategy": "lamp"},
            "The method hydra_erk has rates of its own, received strategy 'lamp'",
        ),
        ({"method": "lwm", "strategy": "uniform"}, "The method lwm has rates of its own"),
        ({"method": "hydra", "strategy": "erk"}, "choose the method hydra_erk, without a strategy"),
        (
            {"method": "radmm", "granularity": "channel"},
            "The method radmm knows no granularity but 'weight', received 'channel'",
        ),
        (
            {"method": "tfmot", "budget": "flops"},
            "knows no budget but 'weights'.*one of harp, harp_joint, hydra, hydra_erk, hydra_lamp, rate.$",
        ),
        ({"method": "lwm", "rate_bounds": ("conv=0.5:",)}, "The method lwm knows no rate_bounds"),
        ({"method": "random", "initial_rate": 0.5}, "The method random knows no initial_rate"),
        (
            {"method": "radmm", "distribute": "mirrored"},
            "knows no distribute but 'none'.*hydra_lamp, rate, lwm, lwm_layer, r",
        ),
        ({"method": "tfmot", "precision": "mixed_bfloat16"}, "The method tfmot knows no precision but 'float32'"),
        ({"method": "score"}, "method must be one of harp, harp_joint, hydra"),
    ],
)
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(HarpError, match=words):
        RunConfig(**settings)


def test_methods_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        METHODS["harp"].mode = "score"
