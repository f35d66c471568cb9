"""Masks are exact for every input, and their gradients are HARP's."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harp_tf.compression import rate_from_logit, straight_through_mask, top_k_mask

GOLDEN = np.load(Path(__file__).parents[1] / "golden/harp_reference.npz", allow_pickle=False)
MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


@pytest.fixture(params=MODES)
def compiled(request):
    return MODES[request.param]


def expected_mask(scores, count):
    """The definition: a stable sort by falling |score|, the lower index first among equals."""
    order = np.argsort(-np.abs(scores).ravel(), kind="stable")
    mask = np.zeros(scores.size, np.float32)
    mask[order[:count]] = 1
    return mask.reshape(scores.shape)


def check(function, scores, counts, name=""):
    for count in counts:
        mask = function(tf.constant(scores), tf.constant(count)).numpy()
        np.testing.assert_array_equal(mask, expected_mask(scores, count), err_msg=f"{name}, count {count}")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


SPECIAL = {
    "all zero": (np.zeros(400), [1, 2, 17, 399, 400]),
    "negative zeros": ([0.0, -0.0, 1.0, -0.0, 0.0], [1, 79, 80, 81, 399]),
    "one value": ([-0.25], [1, 9, 399, 400]),
    "signs": ([-1, 1, 2, -2, -3, 3], [1, 65, 66, 67, 133, 134, 399]),
    "denormals": (np.arange(1, 401, dtype=np.int32).view(np.float32), [1, 5, 128, 399]),
    "extremes": ([0, 1e-45, 1e-38, 1.2e-38, -3.4e38, 3.4e38, np.inf, -np.inf, 1], range(1, 400, 23)),
    "neighbours": (np.nextafter(np.float32(1), np.float32([0, 2])), [1, 100, 200, 201, 399]),
    "heavy ties": (np.random.default_rng(3).integers(-3, 4, 400), [1, 137, 200, 361, 399, 400]),
}


@pytest.mark.parametrize("mode", MODES)
def test_special_scores(mode):
    function = MODES[mode](top_k_mask)
    for name, (values, counts) in SPECIAL.items():
        check(function, np.resize(np.asarray(values, np.float32), 400), counts, name)


def test_one_element_and_a_scalar(compiled):
    check(compiled(top_k_mask), np.float32([-3.5]), [1])
    check(top_k_mask, np.float32(0.0), [1])
    check(top_k_mask, normal(3, 2, 4, 5), [1, 60, 120])


@pytest.mark.parametrize("size", [255, 256, 257, 32767, 32768, 32769, 65535, 65536, 65537])
def test_sizes_around_the_buckets_of_the_radix(size):
    # Ties among many entries take the second selection, by index, over the same buckets.
    function = tf.function(top_k_mask)
    check(function, normal(size), [1, 255, size // 2, size - 1, size])
    check(function, np.ones(size, np.float32), [1, 200, size // 2, size - 1])


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_collisions_among_a_million_draws(mode):
    scores = normal(1_000_000)
    ordered = -np.sort(-np.abs(scores))
    first = int(np.flatnonzero(ordered[1:] == ordered[:-1])[0]) + 1  # keeps one of two equal scores
    check(MODES[mode](top_k_mask), scores, [first])


@pytest.mark.slow
def test_twenty_five_million():
    scores = normal(25_000_000)
    scores[::3] = np.round(scores[::3], 3)
    check(tf.function(top_k_mask), scores, [25_000, 2_500_000])


BITS = hnp.arrays(np.int32, st.integers(1, 300), elements=st.integers(-(2**31), 2**31 - 1))
FEW = hnp.arrays(np.float32, st.integers(1, 300), elements=st.sampled_from([0, -0.0, 0.5, -0.5, 1, 1e-45]))


@settings(max_examples=100, deadline=None)
@given(st.one_of(FEW, BITS.map(lambda bits: np.nan_to_num(bits.view(np.float32)))), st.data())
def test_every_mask_is_the_stable_sort(scores, data):
    count = data.draw(st.integers(1, scores.size))
    np.testing.assert_array_equal(top_k_mask(tf.constant(scores), count), expected_mask(scores, count))


def test_masks_take_the_dtype_of_the_scores():
    for dtype in (tf.float16, tf.bfloat16, tf.float64):
        mask = top_k_mask(tf.constant([1.0, -3.0, 2.0], dtype), 2)
        assert mask.dtype == dtype and mask.numpy().tolist() == [0, 1, 1]


def test_one_trace_serves_every_count():
    function = tf.function(top_k_mask)
    for count in (1, 5, 9):
        function(tf.constant(normal(10)), tf.constant(count))
    assert function.experimental_get_tracing_count() == 1


# HARP's gradients ------------------------------------------------------------------------------------------------


def test_gradients_are_straight_through_to_scores_and_summed_to_the_rate(compiled):
    scores, upstream = normal(4, 5, seed=1), normal(4, 5, seed=2)
    scores[0, 0] = 0.0

    @compiled
    def gradients(scores, rate, upstream):
        with tf.GradientTape() as tape:
            tape.watch([scores, rate])
            loss = tf.reduce_sum(straight_through_mask(scores, rate) * upstream)
        return tape.gradient(loss, [scores, rate])

    d_scores, d_rate = gradients(tf.constant(scores), tf.constant(0.3), tf.constant(upstream))
    np.testing.assert_array_equal(d_scores, upstream * np.sign(scores))
    np.testing.assert_allclose(d_rate, upstream.sum(dtype=np.float64), rtol=1e-6)


def marginal_gradients(scores, rate, upstream):
    with tf.GradientTape() as tape:
        tape.watch([scores, rate])
        loss = tf.reduce_sum(straight_through_mask(scores, rate, rate_gradient="marginal") * upstream)
    return tape.gradient(loss, [scores, rate])


def test_the_marginal_gradient_is_a_mean_around_the_threshold(compiled):
    scores, upstream = normal(4, 5, seed=1), normal(4, 5, seed=2)
    d_scores, d_rate = compiled(marginal_gradients)(tf.constant(scores), tf.constant(0.25), tf.constant(upstream))
    np.testing.assert_array_equal(d_scores, upstream * np.sign(scores))
    near = np.argsort(-np.abs(scores).ravel())[2:10]  # 5 of 20 are kept; all but the 2 largest of the first 10
    np.testing.assert_allclose(d_rate, 20 * upstream.ravel()[near].mean(), rtol=1e-5)
    # What all entries agree on is what the paper's sum says.
    _, d_rate = marginal_gradients(tf.constant(scores), tf.constant(0.25), tf.fill((4, 5), -0.5))
    np.testing.assert_allclose(d_rate, -10, rtol=1e-6)


@pytest.mark.parametrize("rate, expected", [(0.25, 2.0), (0.5, 3.0), (0.75, 3.0), (1.0, 3.5)])
def test_the_marginal_gradient_of_small_layers(rate, expected):
    """The mean of the second alone, of the second to the last twice, and of the last two where all are kept."""
    _, d_rate = marginal_gradients(tf.constant([4.0, 3.0, 2.0, 1.0]), tf.constant(rate), tf.constant([1.0, 2, 3, 4]))
    assert float(d_rate) == 4 * expected


def test_the_marginal_gradient_of_a_single_weight():
    _, d_rate = marginal_gradients(tf.constant([2.0]), tf.constant(1.0), tf.constant([3.0]))
    assert float(d_rate) == 0.0


def golden_layer(name):
    """One pruned layer in pure functions: mask, output and gradients of the sum of y * upstream."""
    minimum = float(GOLDEN[f"{name}/k_min"])

    def layer(x, weight, bias):
        if name == "linear":
            return x @ weight + bias
        stride, padding = (int(value) for value in GOLDEN[f"{name}/stride_padding"])
        pads = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
        return tf.nn.conv2d(tf.pad(x, pads), weight, stride, "VALID") + bias

    def forward_and_backward(weight, bias, scores, x, upstream, k_score):
        sources = {"weight": weight, "bias": bias, "scores": scores, "x": x, "k_score": k_score}
        with tf.GradientTape() as tape:
            tape.watch(sources)
            rate = rate_from_logit(k_score, minimum)
            mask = straight_through_mask(scores, rate)
            y = layer(x, weight * mask, bias)
            loss = tf.reduce_sum(y * upstream)
        gradients = tape.gradient(loss, sources)
        return {"k": rate, "mask": mask, "y": y} | {f"d_{key}": value for key, value in gradients.items()}

    return forward_and_backward


def golden_array(name, key):
    """A golden array in Keras' layout."""
    array = GOLDEN[f"{name}/{key}"]
    if array.ndim < 2:
        return array
    if name == "linear":
        return array if key.rpartition("/")[2] in ("x", "upstream", "y", "d_x") else array.T
    images = key.rpartition("/")[2] in ("x", "upstream", "y", "d_x")
    return array.transpose(0, 2, 3, 1) if images else array.transpose(2, 3, 1, 0)


@pytest.mark.parametrize("name", ["conv", "conv_s2", "linear"])
def test_golden_layers(compiled, name):
    run = compiled(golden_layer(name))
    given = {key: tf.constant(golden_array(name, key)) for key in ("weight", "bias", "scores", "x", "upstream")}
    for case in range(9):
        logit = golden_array(name, f"case{case}/k_score")
        found = {key: value.numpy() for key, value in run(**given, k_score=tf.constant(logit)).items()}
        assert found["mask"].sum() == GOLDEN[f"{name}/case{case}/kept"]
        np.testing.assert_array_equal(found.pop("mask"), golden_array(name, f"case{case}/mask"))
        # The reference's 1 - sigmoid is rounded to float32, so its gradient is that coarse; ours has to be closer to
        # the closed form.
        summed = np.sum(found["d_scores"] * np.sign(given["scores"]), dtype=np.float64)
        slope = 1 / (2 + np.exp(np.float64(logit)) + np.exp(-np.float64(logit)))
        rate_gradient = found.pop("d_k_score")
        np.testing.assert_allclose(rate_gradient, (1 - GOLDEN[f"{name}/k_min"]) * slope * summed, rtol=1e-6)
        rounding = np.finfo(np.float32).eps * abs(summed)
        np.testing.assert_allclose(rate_gradient, golden_array(name, f"case{case}/d_k_score"), 1e-6, rounding)
        for key, value in found.items():
            expected = golden_array(name, f"case{case}/{key}")
            scale = 1e-6 * np.abs(expected).max()
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=scale, err_msg=f"case {case}, {key}")
