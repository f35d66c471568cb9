"""Every setting is checked, and the message names it, the value and the range."""

import dataclasses
import json
import math

import pytest

from harp_tf.config import STAGES, RunConfig, setting_range, setting_type
from harp_tf.types import HarpError, PruningSpec

FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}
BOUNDED = [name for name, field in FIELDS.items() if field.metadata["low"] is not None]
UPPER = [name for name in BOUNDED if FIELDS[name].metadata["high"] is not None]

# The smallest and the largest legal value of every number, so that a bound cannot move unnoticed.
LIMITS = {
    "seed": (0, 2**31 - 1),
    "data_seed": (0, 2**31 - 1),
    "checkpoint_minutes": (0, None),
    "checkpoint_keep": (1, None),
    "devices": (1, None),
    "validation_fraction": (0.001, 0.9),
    "train_limit": (1, None),
    "test_limit": (1, None),
    "width": ("open", None),
    "depth": (1, None),
    "beta": (0, None),
    "replays": (1, None),
    "eps": (0, None),
    "attack_steps": (1, None),
    "attack_step_size": (0, None),
    "initial_rate": ("open", 1),
    "channel_sparsity": ("open", 0.999),
    "channel_multiple": (1, None),
    "floor_factor": (1e-6, 0.999),
    "gamma": ("open", None),
    "batch_size": (1, None),
    "accumulate": (1, None),
    "momentum": (0, 0.9999),
    "weight_decay": (0, None),
    "warmup_epochs": (0, None),
    "pretrain_epochs": (1, None),
    "prune_epochs": (1, None),
    "finetune_epochs": (1, None),
    "pretrain_learning_rate": ("open", None),
    "prune_learning_rate": ("open", None),
    "finetune_learning_rate": ("open", None),
    "eval_steps": (1, None),
    "eval_step_size": (0, None),
    "robust_limit": (1, None),
}


def refused(**settings) -> str:
    with pytest.raises(HarpError) as caught:
        RunConfig(**settings)
    return str(caught.value)


def test_every_number_has_a_range():
    numbers = {name for name, field in FIELDS.items() if setting_type(field) in (int, float)}
    assert numbers - set(BOUNDED) == {"target_sparsity"}  # whose range is the PruningSpec's
    assert set(LIMITS) == set(BOUNDED)


@pytest.mark.parametrize("name", BOUNDED)
def test_the_smallest_value_is_legal_and_below_it_nothing(name):
    low, _ = LIMITS[name]
    smallest = math.ulp(0.0) if low == "open" else low
    assert getattr(RunConfig(**{name: smallest}), name) == smallest
    below = 0.0 if low == "open" else low - 1 if setting_type(FIELDS[name]) is int else math.nextafter(low, -1)
    message = refused(**{name: below})
    assert message.startswith(f"{name} must be ") and f"received {below!r}." in message
    assert ("more than 0" if low == "open" else f"at least {low:g}") in message


@pytest.mark.parametrize("name", UPPER)
def test_the_largest_value_is_legal_and_above_it_nothing(name):
    _, high = LIMITS[name]
    assert getattr(RunConfig(**{name: high}), name) == high
    above = high + 1 if setting_type(FIELDS[name]) is int else math.nextafter(high, 2)
    message = refused(**{name: above})
    assert message.startswith(f"{name} must be ") and f"received {above!r}." in message
    assert f"at most {high}" in message


@pytest.mark.parametrize("name", [name for name in BOUNDED if name not in UPPER])
def test_without_an_upper_bound_large_values_are_legal(name):
    large = 2**31 - 1 if setting_type(FIELDS[name]) is int else 1e9
    assert LIMITS[name][1] is None
    assert (
        getattr(RunConfig(**{"norm": "l2", "pretrain_epochs": 2**31 - 1, "batch_size": 2**31 - 1, name: large}), name)
        == large
    )


@pytest.mark.parametrize("name", FIELDS)
def test_wrong_types_are_refused(name):
    kind = setting_type(FIELDS[name])
    wrong = {
        bool: (1, "true"),
        int: (1.0, "1", True, 10**12),
        float: ("0.5", True, math.nan, math.inf, 10**400),
        str: (1, b"x", ""),
        tuple: (["prune"], "prune", (1,)),
    }[kind]
    for value in (*wrong, {}):
        message = refused(**{name: value})
        assert name in message and repr(value) in message
    if FIELDS[name].default is None:
        assert getattr(RunConfig(**{name: None}), name) is None
    else:
        assert name in refused(**{name: None})


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["choices"]])
def test_choices(name):
    field = FIELDS[name]
    if setting_type(field) is str:
        for choice in field.metadata["choices"]:
            assert getattr(RunConfig(**{name: choice}), name) == choice
    wrong = ("bogus",) if setting_type(field) is tuple else "bogus"
    message = refused(**{name: wrong})
    assert message == f"{name} must be one of {', '.join(field.metadata['choices'])}, received 'bogus'."


@pytest.mark.parametrize("value", [1.0, 0, 0.0, -1, -0.5, 1.5, 99])
def test_target_sparsity_lies_strictly_between_0_and_1(value):
    message = refused(target_sparsity=value)
    assert message.startswith("target_sparsity must be a number strictly between 0 and 1")
    assert f"received {value!r}" in message


@pytest.mark.parametrize(
    "stages",
    [(), ("prune", "pretrain"), ("prune", "prune"), ("evaluate", "export"), ("pretrain", "finetune", "prune")],
)
def test_stages_have_one_order(stages):
    message = refused(stages=stages)
    assert message.startswith("stages must be some of pretrain, prune, finetune, export, evaluate in this order")
    assert repr(stages) in message


def test_any_subset_of_the_stages_in_order_is_legal_if_finetune_finds_masks():
    for bits in range(1, 2 ** len(STAGES)):
        stages = tuple(stage for position, stage in enumerate(STAGES) if bits >> position & 1)
        if "pretrain" in stages and "finetune" in stages and "prune" not in stages:
            assert "prune between pretrain and finetune" in refused(stages=stages)
        else:
            assert RunConfig(stages=stages).stages == stages


def test_a_radius_in_8_bit_pixels_is_noticed():
    message = refused(eps=8.0)
    assert "eps must be at most 1" in message and "8.0" in message and "255" in message
    assert RunConfig(eps=8.0, norm="l2").eps == 8.0
    assert RunConfig(eps=1.0).eps == 1.0


def test_warmup_fits_into_pretrain():
    assert RunConfig(warmup_epochs=3, pretrain_epochs=3).warmup_epochs == 3
    assert refused(warmup_epochs=3.5, pretrain_epochs=3) == (
        "warmup_epochs must be at most pretrain_epochs = 3, received 3.5."
    )


def test_defaults_are_those_of_the_papers_runs():
    config = RunConfig()
    assert (config.pretrain_epochs, config.prune_epochs, config.finetune_epochs) == (100, 20, 100)
    assert (config.pretrain_learning_rate, config.prune_learning_rate) == (0.1, 0.1)
    assert config.finetune_learning_rate == 0.01
    assert (config.optimizer, config.momentum, config.weight_decay, config.batch_size) == ("sgd", 0.9, 5e-4, 128)
    assert (config.eps, config.attack_steps, config.schedule, config.gamma) == (8 / 255, 10, "cosine", 0.01)
    assert config.pruning_spec() == PruningSpec(0.99, "harp", "weights", 0.1)


def test_every_setting_has_help_with_a_full_stop():
    for field in dataclasses.fields(RunConfig):
        text = field.metadata["help"]
        assert len(text) > 10 and text[-1] == "." and "\n" not in text, field.name


def test_ranges_are_written_for_people():
    assert setting_range(FIELDS["batch_size"]) == "at least 1"
    assert setting_range(FIELDS["gamma"]) == "more than 0"
    assert setting_range(FIELDS["initial_rate"]) == "more than 0 and at most 1"
    assert setting_range(FIELDS["seed"]) == "at least 0 and at most 2147483647"
    assert setting_range(FIELDS["dataset"]) == ""


def test_as_dict_goes_through_json_and_back():
    config = RunConfig(skip=("conv1", "logits"), rate_bounds=("a=0.1:",), stages=("prune",), train_limit=5, eps=4 / 255)
    values = json.loads(json.dumps(config.as_dict()))
    assert RunConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}) == config


def test_channels_first():
    config = RunConfig(granularity="channel,weight")
    assert config.channels_first and config.pruning_spec().granularity == "weight"
    assert not RunConfig(granularity="channel").channels_first
    assert "granularity must be one of weight, channel, channel,weight, received" in refused(
        granularity="weight,channel"
    )
    assert refused(granularity="channel,weight", budget="flops") == (
        "budget must be weights with the granularity channel,weight, received 'flops': target_sparsity is about the "
        "weights there, and channel_sparsity about the multiply-adds."
    )


def test_bounds_of_rates():
    config = RunConfig(rate_bounds=("conv1=0.2:", "block/.*=:0.1", "logits=1:1"))
    assert config.bounds_by_layer() == {"conv1": (0.2, None), "block/.*": (None, 0.1), "logits": (1.0, 1.0)}
    with pytest.raises(HarpError, match="must be written layer=smallest:largest"):
        RunConfig(rate_bounds=("conv1=0.2",))
    with pytest.raises(HarpError, match="rate_bounds must name each layer once, received a=0.1:,a=:0.2"):
        RunConfig(rate_bounds=("a=0.1:", "a=:0.2"))


def test_settings_are_frozen_and_have_names():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().eps = 1
    with pytest.raises(TypeError):
        RunConfig("runs/x")
