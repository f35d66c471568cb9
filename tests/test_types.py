import json
import math

import numpy as np
import pytest

from harp_tf.types import HarpError, PruningSpec, RateBound, is_count, require_choice


def test_rates_of_a_sparsity():
    spec = PruningSpec(0.99)
    assert spec.target_rate == pytest.approx(0.01)
    assert spec.minimum_rate == pytest.approx(0.001)
    assert PruningSpec(0.9, floor_factor=0.5).minimum_rate == pytest.approx(0.05)


def test_rates_that_are_given_have_no_floor():
    assert PruningSpec(0.99, mode="score").minimum_rate == 0.0
    assert PruningSpec(0.99, mode="rate").minimum_rate > 0.0


def test_round_trip_through_json():
    spec = PruningSpec(
        np.float32(0.5), mode="rate", budget="flops", floor_factor=np.float64(0.2), rate_gradient="marginal"
    )
    assert PruningSpec(**json.loads(json.dumps(spec.as_dict()))) == spec


def test_a_spec_does_not_change():
    with pytest.raises(AttributeError):
        PruningSpec(0.9).target_sparsity = 0.5


@pytest.mark.parametrize("sparsity", [0, 0.0, 1, 1.0, -1, 99, "0.9", None, True, False, math.nan, math.inf, [0.9], 1j])
def test_sparsities_out_of_range(sparsity):
    with pytest.raises(HarpError, match="target_sparsity must be a number strictly between 0 and 1.*received"):
        PruningSpec(sparsity)


@pytest.mark.parametrize("factor", [0, 1, -0.1, "a", None, True, math.nan])
def test_floor_factors_out_of_range(factor):
    with pytest.raises(HarpError, match="floor_factor must be a number strictly between 0 and 1, received"):
        PruningSpec(0.9, floor_factor=factor)


@pytest.mark.parametrize("multiple", [0, -8, 2.5, "8", None, True])
def test_channel_multiples_out_of_range(multiple):
    with pytest.raises(HarpError, match="channel_multiple must be a whole number of at least 1, received"):
        PruningSpec(0.9, channel_multiple=multiple)


@pytest.mark.parametrize("field", ["mode", "budget", "granularity", "rate_gradient"])
def test_unknown_choices(field):
    with pytest.raises(HarpError, match=f"{field} must be one of .*, received 'other'"):
        PruningSpec(0.9, **{field: "other"})


def test_require_choice():
    require_choice("stage", "prune", ("prune", "finetune"))
    with pytest.raises(HarpError, match="stage must be one of prune, finetune, received 3"):
        require_choice("stage", 3, ("prune", "finetune"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv1=0.1:0.5", ("conv1", 0.1, 0.5)),
        ("conv1=0.1:", ("conv1", 0.1, None)),
        ("block/.*=:1", ("block/.*", None, 1.0)),
        ("a=b=1e-3:1", ("a=b", 0.001, 1.0)),
    ],
)
def test_rate_bounds_are_read(text, expected):
    bound = RateBound.parse(text)
    assert (bound.layers, bound.low, bound.high) == expected


@pytest.mark.parametrize("text", ["conv1", "conv1=0.1", "=0.1:0.5", "conv1=a:b", "conv1:0.1=0.5", "conv1=0.1:0.2:0.3"])
def test_rate_bounds_that_cannot_be_read(text):
    with pytest.raises(HarpError, match=f"rate_bounds must be written layer=smallest:largest.*received {text!r}"):
        RateBound.parse(text)


@pytest.mark.parametrize("text", ["conv1=0:0.5", "conv1=0.1:2", "conv1=nan:1", "a=:inf", "a=0.5:0.1", "conv(=0.1:"])
def test_rate_bounds_out_of_range(text):
    with pytest.raises(HarpError, match="rate_bounds"):
        RateBound.parse(text)


@pytest.mark.parametrize(
    "value, right",
    [(1, True), (20, True), (0, False), (-1, False), (2.0, False), ("3", False), (True, False), (np.int64(3), False)],
)
def test_a_count_is_a_plain_whole_number_from_one_on(value, right):
    assert is_count(value) is right


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(" * 3000 + ")" * 3000])
def test_a_regular_expression_beyond_the_limits_of_python(pattern):
    with pytest.raises(HarpError, match="rate_bounds expects"):
        RateBound(pattern, 0.1)
