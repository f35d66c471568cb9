"""The contract of a pruned layer, on every registered layer class."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from harp_tf.layers import masked_kernels, prune, pruned_class, registry, shared_kernels
from harp_tf.types import PruningSpec
from tests.layers.zoo import LAYERS

GOLDEN = np.load(Path(__file__).parents[1] / "golden/harp_reference.npz", allow_pickle=False)
MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


def test_every_registered_class_has_a_case():
    assert {case[0] for case in LAYERS.values()} >= {
        cls for cls in registry._PRUNED if cls.__module__.startswith("keras")
    }


class Pair:
    """A plain layer and its pruned form with the same weights, and inputs for both."""

    def __init__(self, layer_class, options, shape, rate=0.3, **more):
        if options.get("use_bias", True):
            options = {**options, "bias_initializer": "normal"}
        self.plain = layer_class(**options, **more)
        self.pruned = pruned_class(layer_class)(**options, **more, pruning=PruningSpec(0.9))
        for layer in (self.plain, self.pruned):
            layer.build((None, *shape))
        for source, target in zip(self.plain.variables, self.pruned.base_variables(), strict=True):
            target.assign(source)
        draws = np.random.default_rng(0)
        for variable, scores in self.kernels:
            scores.initialise(draws.normal(size=variable.shape), rate)
        self.inputs = tf.constant(draws.normal(size=(2, *shape)), tf.float32)

    @property
    def kernels(self):
        return list(zip(self.pruned.kernel_variables(), self.pruned.kernel_scores, strict=True))

    def keep_all(self):
        for _, scores in self.kernels:
            scores.set_count(scores.size)

    def mask_plain(self):
        """Multiplies the plain layer's kernels with the masks."""
        for kernel, (_, scores) in zip(self.pruned.kernels, self.kernels, strict=True):
            variable = getattr(self.plain, kernel.name)
            variable.assign(variable.numpy() * scores.mask().numpy())


@pytest.fixture(params=LAYERS)
def pair(request):
    return Pair(*LAYERS[request.param])


def test_with_all_weights_it_equals_the_plain_layer_bit_for_bit(pair):
    pair.keep_all()
    np.testing.assert_array_equal(pair.pruned(pair.inputs), pair.plain(pair.inputs))


def test_masked_it_equals_the_plain_layer_with_masked_kernels(pair):
    pair.mask_plain()
    for mode in (MODES["eager"], MODES["graph"]):
        np.testing.assert_array_equal(mode(pair.pruned)(pair.inputs), mode(pair.plain)(pair.inputs))
    for _, scores in pair.kernels:
        mask = scores.mask().numpy()
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert mask.sum() == scores.kept() < scores.size


def test_gradients_are_those_of_the_formulas(pair):
    upstream = tf.constant(np.random.default_rng(1).normal(size=pair.pruned(pair.inputs).shape), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(pair.pruned(pair.inputs) * upstream)
    sources = [v.value for v in pair.pruned.variables]
    found = dict(zip((v.path for v in pair.pruned.variables), tape.gradient(loss, sources), strict=True))
    pair.mask_plain()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(pair.plain(pair.inputs) * upstream)
    of_masked = tape.gradient(loss, [v.value for v in pair.plain.variables])
    for variable, gradient in zip(pair.pruned.base_variables(), of_masked, strict=True):
        scores = {id(v): s for v, s in pair.kernels}.get(id(variable))
        if scores is None:  # a bias
            np.testing.assert_allclose(found[variable.path], gradient, rtol=1e-5, atol=1e-6)
            continue
        g = gradient.numpy() * variable.numpy()
        floor = pair.pruned.pruning.minimum_rate
        sigmoid = 1 / (1 + np.exp(-np.float64(scores.logit.numpy())))
        expected = {
            variable.path: gradient.numpy() * scores.mask().numpy(),
            scores.scores.path: g * np.sign(scores.scores.numpy()),
            scores.logit.path: g.sum() * (1 - floor) * sigmoid * (1 - sigmoid),
        }
        for path, value in expected.items():
            np.testing.assert_allclose(found[path], value, rtol=1e-4, atol=1e-5 * np.abs(g).max(), err_msg=path)


def test_config_round_trip(pair):
    again = type(pair.pruned).from_config(pair.pruned.get_config())
    assert again.get_config() == pair.pruned.get_config()
    again.build((None, *pair.inputs.shape[1:]))
    for source, target in zip(pair.pruned.variables, again.variables, strict=True):
        assert source.name == target.name
        target.assign(source)
    np.testing.assert_array_equal(again(pair.inputs), pair.pruned(pair.inputs))


# Golden numbers through the layers ---------------------------------------------------------------------------------


def golden_array(name, key):
    """A golden array in Keras' layout."""
    array = GOLDEN[f"{name}/{key}"]
    images = key.rpartition("/")[2] in ("x", "upstream", "y", "d_x")
    if array.ndim < 2 or (name == "linear" and images):
        return array
    if name == "linear":
        return array.T
    return array.transpose(0, 2, 3, 1) if images else array.transpose(2, 3, 1, 0)


def golden_layer(name):
    kernel = golden_array(name, "weight")
    spec = PruningSpec(0.99)
    assert spec.minimum_rate == pytest.approx(float(GOLDEN[f"{name}/k_min"]))
    if name == "linear":
        layer = pruned_class(layers.Dense)(kernel.shape[-1], pruning=spec)
    else:
        strides, padding = (int(value) for value in GOLDEN[f"{name}/stride_padding"])
        assert padding == 1
        layer = pruned_class(layers.Conv2D)(kernel.shape[-1], 3, strides=strides, pruning=spec)
    layer.build((None, 10, 10, kernel.shape[-2]) if name != "linear" else (None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    layer.bias.assign(golden_array(name, "bias"))
    layer.kernel_scores[0].scores.assign(golden_array(name, "scores"))
    return layer


@pytest.mark.parametrize("name", ["conv", "conv_s2", "linear"])
@pytest.mark.parametrize("mode", MODES)
def test_golden_layers(name, mode):
    layer = golden_layer(name)
    scores = layer.kernel_scores[0]
    x, upstream = (tf.constant(golden_array(name, key)) for key in ("x", "upstream"))
    variables = {"d_weight": layer.kernel, "d_bias": layer.bias, "d_scores": scores.scores, "d_k_score": scores.logit}

    @MODES[mode]
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            padded = x if name == "linear" else tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
            y = layer(padded)
            loss = tf.reduce_sum(y * upstream)
        gradients = tape.gradient(loss, [*(v.value for v in variables.values()), x])
        return {"mask": scores.mask(), "y": y} | dict(zip([*variables, "d_x"], gradients, strict=True))

    for case in range(9):
        scores.logit.assign(GOLDEN[f"{name}/case{case}/k_score"])
        found = {key: value.numpy() for key, value in run().items()}
        np.testing.assert_array_equal(found.pop("mask"), golden_array(name, f"case{case}/mask"))
        assert scores.kept() == GOLDEN[f"{name}/case{case}/kept"]
        # The reference rounds 1 - sigmoid to float32.
        rounding = np.finfo(np.float32).eps * abs(np.sum(found["d_scores"] * np.sign(scores.scores.numpy())))
        golden = golden_array(name, f"case{case}/d_k_score")
        np.testing.assert_allclose(found.pop("d_k_score"), golden, rtol=1e-6, atol=rounding)
        for key, value in found.items():
            golden = golden_array(name, f"case{case}/{key}")
            scale = 1e-6 * np.abs(golden).max()
            np.testing.assert_allclose(value, golden, rtol=1e-6, atol=scale, err_msg=f"case {case}, {key}")


# One selection per step ------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(3, name="dense"),
        ]
    )
    return prune(model, 0.7, verbose=False)


def test_shared_kernels_are_selected_once(network, count_selections):
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 6, 2)), tf.float32)

    def passes(images):
        for _ in range(3):
            images = images + tf.reduce_sum(network(images))
        return images

    def shared(images):
        with shared_kernels(masked_kernels(network)):
            return passes(images)

    def loop(images):
        with shared_kernels(masked_kernels(network)):
            return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x + tf.reduce_sum(network(x))), (0, images))[
                1
            ]

    assert count_selections(passes, images) == 6
    assert count_selections(shared, images) == 2
    assert count_selections(loop, images) == 2
    np.testing.assert_allclose(loop(images), passes(images), rtol=1e-6)


def test_gradients_through_shared_kernels_are_the_same(network):
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 6, 2)), tf.float32)
    sources = [v.value for v in network.variables]

    def gradients(kernels):
        with tf.GradientTape() as tape, shared_kernels(kernels()):
            loss = tf.reduce_sum(network(images) ** 2)
        return tape.gradient(loss, sources)

    for once, alone in zip(gradients(lambda: masked_kernels(network)), gradients(dict), strict=True):
        np.testing.assert_allclose(once, alone, rtol=1e-5, atol=1e-6)


def test_kernels_are_shared_inside_the_context_only(network, count_selections):
    with shared_kernels(masked_kernels(network)):
        with pytest.raises(RuntimeError), shared_kernels({}):
            raise RuntimeError
        assert count_selections(network, tf.zeros((1, 6, 6, 2))) == 0
    assert count_selections(network, tf.zeros((1, 6, 6, 2))) == 2


def test_kernels_of_another_network_are_not_taken(network, count_selections):
    other = prune(keras.Sequential([keras.Input((4,)), layers.Dense(3)]), 0.5, verbose=False)
    with shared_kernels(masked_kernels(network)):
        assert count_selections(other, tf.zeros((1, 4))) == 1


# Keras around the layer --------------------------------------------------------------------------------------------


def test_activity_regularizers_see_the_masked_output():
    pair = Pair(layers.Dense, {"units": 5, "activity_regularizer": keras.regularizers.L2(0.1)}, (7,))
    pair.mask_plain()
    pair.plain(pair.inputs), pair.pruned(pair.inputs)
    assert len(pair.plain.losses) == 1
    np.testing.assert_allclose(pair.pruned.losses, pair.plain.losses, rtol=1e-6)


def test_an_outer_scope_keeps_its_substitutes():
    pair = Pair(layers.Dense, {"units": 5}, (7,))
    bias, kernel = np.float32([1, 2, 3, 4, 5]), np.ones((7, 5), np.float32)
    with keras.StatelessScope([(pair.pruned.bias, bias), (pair.pruned.kernel, kernel)]):
        found = pair.pruned(pair.inputs)
    mask = pair.pruned.kernel_scores[0].mask().numpy()
    np.testing.assert_allclose(found, pair.inputs.numpy() @ mask + bias, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(pair.pruned.bias.numpy(), bias)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_masks_are_selected_in_float32_under_mixed_precision(policy):
    pair = Pair(layers.Dense, {"units": 64}, (1000,), rate=0.25, dtype=policy)
    scores = pair.pruned.kernel_scores[0]
    # Distinct in float32, mostly tied in 16 bits: selected there, other weights would be kept.
    scores.scores.assign(1 + np.random.default_rng(0).permutation(64_000).reshape(1000, 64) * 1e-9 * 119.3)
    assert pair.pruned.kernel.dtype == "float32"
    alone = pair.pruned(pair.inputs)
    with shared_kernels(pair.pruned.masked_kernels()):
        shared = pair.pruned(pair.inputs)
    pair.mask_plain()
    assert alone.dtype == policy.removeprefix("mixed_")
    np.testing.assert_array_equal(alone, pair.plain(pair.inputs))
    np.testing.assert_array_equal(shared, alone)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(pair.pruned(pair.inputs), tf.float32))
    gradients = tape.gradient(loss, [scores.scores.value, scores.logit.value])
    assert all(gradient.dtype == tf.float32 and np.isfinite(gradient).all() for gradient in gradients)
    assert gradients[1] != 0
