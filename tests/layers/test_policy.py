"""What `skip=` takes."""

import re

import keras
import pytest
from keras import layers

from harp_tf.layers import prune, pruned_kernels
from harp_tf.types import HarpError
from tests.layers.zoo import MODELS, with_composite


@pytest.fixture(scope="module")
def model():
    return MODELS["transformer"]()


KERNELS = [
    "patches",
    *(f"attention0/{n}" for n in ("query", "key", "value", "attention_output")),
    "up0",
    "down0",
    "head",
]


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ((), []),
        ("head", ["head"]),
        (["patches", "head"], ["patches", "head"]),
        ("attention0/query", ["attention0/query"]),
        ("query", ["attention0/query"]),
        ("attention0", KERNELS[1:5]),
        (layers.MultiHeadAttention, KERNELS[1:5]),
        (layers.EinsumDense, KERNELS[1:5]),
        ((layers.Dense, layers.Conv2D), ["patches", "up0", "down0", "head"]),
        (re.compile(r"^(up|down)\d$"), ["up0", "down0"]),
        (re.compile("attention0/(key|value)"), ["attention0/key", "attention0/value"]),
        (lambda path, layer: isinstance(layer, layers.Dense) and layer.units == 3, ["head"]),
        (["head", re.compile("^up"), layers.Conv2D, lambda path, layer: path.endswith("key")],
         ["patches", "attention0/key", "up0", "head"]),
        ({"head"}, ["head"]),
    ],
)  # fmt: skip
def test_names_paths_patterns_classes_and_functions(model, skip, left):
    pruned = prune(model, 0.5, skip=skip, verbose=False)
    found = [kernel.path.rpartition("/")[0] for kernel in pruned_kernels(pruned)]
    assert found == [path for path in KERNELS if path not in left]


def test_layers_themselves_such_as_the_first_and_the_last(model):
    pruned = prune(model, 0.5, skip=[model.layers[1], model.layers[-1]], verbose=False)
    assert [k.path.rpartition("/")[0] for k in pruned_kernels(pruned)] == KERNELS[1:-1]
    attention = model.get_layer("attention0")
    pruned = prune(model, 0.5, skip=attention, verbose=False)
    assert not [k.path for k in pruned_kernels(pruned) if k.path.startswith("attention0")]


def test_a_layer_inside_of_a_skipped_block_is_skipped():
    model = with_composite("custom block")
    pruned = prune(model, 0.5, skip=[layers.MultiHeadAttention, "mixer/branch"], verbose=False)
    assert [k.path for k in pruned_kernels(pruned)] == [
        "mixer/steps/0/kernel",
        "mixer/steps/1/kernel",
        "mixer/by_name/narrow/kernel",
        "head/kernel",
    ]


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (["head", "heads"], "skip names layers that model 'transformer' does not have: 'heads'. It has patches, "),
        (layers.Conv3D, "does not have: instances of Conv3D. It has"),
        (re.compile("^x"), r"does not have: the pattern '\^x'. It has"),
        (layers.Dense(3, name="stranger"), "does not have: the layer 'stranger'. It has"),
        (["a", layers.GRU], "does not have: 'a', instances of GRU. It has"),
        (3, r"skip takes names, paths, compiled patterns, .* or a list of them, received 3"),
        (["head", 3], "received 3"),
        (None, "received None"),
    ],
)
def test_what_matches_nothing_or_is_no_rule(model, skip, message):
    with pytest.raises(HarpError, match=message):
        prune(model, 0.5, skip=skip)


def test_a_function_is_asked_about_layers_with_kernels_only(model):
    seen = []
    prune(model, 0.5, skip=[lambda path, layer: bool(seen.append((path, type(layer))))], verbose=False)
    paths = [path for path, _ in seen]
    assert sorted(paths) == sorted([*KERNELS, "positions"])
    assert not {cls for _, cls in seen} & {keras.layers.LayerNormalization, keras.layers.Add}
