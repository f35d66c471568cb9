"""Masks of kernels from the scores of channels."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.compression import keep_channels, rate_from_logit
from harp_tf.layers import masked_kernels, prune, pruned_class, pruned_kernels, shared_kernels
from harp_tf.types import PruningSpec
from tests.layers import topologies
from tests.layers.nets import randomise_scores

GOLDEN = np.load(Path(__file__).parents[1] / "golden/channel_reference.npz", allow_pickle=False)


def golden_layer():
    """The golden convolution, its scores and its images."""
    convolution = pruned_class(keras.layers.Conv2D)(
        4,
        3,
        padding="same",
        use_bias=False,
        pruning=PruningSpec(0.9, granularity="channel"),  # a floor of 0.01
        reads=[[1, ["golden/inputs", 6]]],
    )
    convolution.build((None, 5, 5, 6))
    convolution.kernel.assign(GOLDEN["weight"].transpose(2, 3, 1, 0))
    (scores,) = convolution.kernel_scores
    scores.scores.assign(GOLDEN["scores"].ravel())
    return convolution, scores, tf.constant(GOLDEN["x"].transpose(0, 2, 3, 1))


def test_golden_initial_scores():
    convolution, scores, _ = golden_layer()
    (norms,) = convolution.mask_source.magnitudes().values()
    scores.initialise(norms, 0.1)
    np.testing.assert_allclose(scores.scores.numpy(), GOLDEN["score_init_true_L1_over_max"], rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_golden_masks_outputs_and_gradients(jit_compile):
    convolution, scores, images = golden_layer()

    @tf.function(jit_compile=jit_compile)
    def run():
        with tf.GradientTape() as tape:
            outputs = convolution(images)
            loss = tf.reduce_sum(outputs)
        return outputs, scores.mask(), *tape.gradient(loss, [scores.scores.value, scores.logit.value])

    for case in range(5):
        golden = {key: GOLDEN[f"case{case}/{key}"] for key in ("k_score", "mask", "y", "d_scores", "d_k_score")}
        scores.logit.assign(float(golden["k_score"]))
        outputs, mask, d_scores, d_logit = (tensor.numpy() for tensor in run())
        if case == 0:  # the reference keeps no channel at all
            assert mask.tolist() == [1, 0, 0, 0, 0, 0]
        else:
            np.testing.assert_array_equal(mask, golden["mask"].ravel())
            found = outputs.transpose(0, 3, 1, 2)
            np.testing.assert_allclose(found, golden["y"], rtol=1e-6, atol=1e-6 * np.abs(golden["y"]).max())
        largest = np.abs(golden["d_scores"]).max()
        np.testing.assert_allclose(d_scores, golden["d_scores"].ravel(), rtol=1e-6, atol=1e-6 * largest)
        # The reference rounds 1 - sigmoid to float32 before it sums, see test_golden_layers.
        rounding = np.finfo(np.float32).eps * np.abs(golden["d_scores"]).sum(dtype=np.float64)
        np.testing.assert_allclose(d_logit, golden["d_k_score"], rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("topology", topologies.ALL)
def test_each_space_is_selected_once_and_every_reader_uses_its_mask(topology, count_selections):
    model = randomise_scores(prune(topology(), 0.2, granularity="channel", verbose=False))
    spaces = {kernel.path: kernel.scores.mask().numpy() for kernel in pruned_kernels(model)}
    assert count_selections(lambda: masked_kernels(model)) == len(spaces)
    found = masked_kernels(model)
    for kernel in pruned_kernels(model):
        assert kernel.scores.mask().numpy().sum() == kernel.scores.kept()
    for layer in [layer for layer in model._flatten_layers() if hasattr(layer, "mask_source")]:
        for variable, mask in zip(layer.kernel_variables(), layer.mask_source.masks({}), strict=True):
            expected = variable.numpy() * (1 if mask is None else mask.numpy())
            np.testing.assert_array_equal(found[id(variable)], expected)


def test_gradients_of_all_readers_reach_the_first_one():
    """The same gradients as those of plain numbers that multiply what every reader reads."""
    model = randomise_scores(prune(topologies.residual(), 0.2, granularity="channel", verbose=False))
    (space,) = [kernel for kernel in pruned_kernels(model) if kernel.path == "a1/inputs"]
    assert len(space.copies) == 2  # b1 and the projection
    (inputs,) = topologies.example(model)
    with tf.GradientTape() as tape:
        with shared_kernels(masked_kernels(model)):
            loss = tf.reduce_sum(model(inputs) ** 2)
    gradient = tape.gradient(loss, [space.scores.scores.value, space.scores.logit.value, space.copies[0].scores.value])
    assert gradient[2] is None

    readers = [model.get_layer(name) for name in ("a1", "b1", "b_shortcut")]
    kernels = {layer: tf.convert_to_tensor(layer.kernel) for layer in readers}
    scale = tf.Variable(space.scores.mask())
    with tf.GradientTape() as tape:
        values = masked_kernels(model)
        values |= {id(layer.kernel): kernel * scale[:, None] for layer, kernel in kernels.items()}
        with shared_kernels(values):
            loss = tf.reduce_sum(model(inputs) ** 2)
    plain = tape.gradient(loss, scale).numpy()
    np.testing.assert_allclose(gradient[0], plain * np.sign(space.scores.scores.numpy()), rtol=1e-4, atol=1e-5)
    slope = space.scores.logit.value
    with tf.GradientTape() as tape:
        tape.watch(slope)
        rate = rate_from_logit(slope, space.scores.minimum_rate)
    np.testing.assert_allclose(gradient[1], plain.sum() * tape.gradient(rate, slope), rtol=1e-4)


def test_parts_of_an_axis_are_laid_out_as_the_layer_reads_them():
    layer = pruned_class(keras.layers.Dense)(
        2,
        pruning=PruningSpec(0.5, granularity="channel"),
        reads=[[2, ["a", 2], [None, 1]], [1, ["b", 3]]],
    )
    layer.build((None, 9))
    layer.kernel.assign(np.ones((9, 2)))
    a, b = layer.kernel_scores
    for scores, values, count in ((a, [1, 2], 1), (b, [3, 1, 2], 2)):
        scores.scores.assign(values)
        scores.set_count(count)
    (kernel,) = layer.masked_kernels().values()
    assert kernel.numpy()[:, 0].tolist() == [0, 1, 1, 0, 1, 1, 1, 0, 1]
    assert layer.mask_source.costs("kernel", 18) == {"a": 8, "b": 6}
    assert layer.mask_source.input_mask().tolist() == kernel.numpy()[:, 1].tolist()


def test_depthwise_kernels_run_unmasked_and_are_masked_in_the_end():
    model = randomise_scores(prune(topologies.inverted_residual(), 0.2, granularity="channel", verbose=False))
    depthwise, project = model.get_layer("depthwise"), model.get_layer("project")
    removed = depthwise.mask_source.input_mask() == 0
    assert 0 < removed.sum() < 12
    np.testing.assert_array_equal(depthwise.masked_kernels()[id(depthwise.kernel)], depthwise.kernel)
    assert not depthwise.remaining_kernels()[id(depthwise.kernel)].numpy()[:, :, removed].any()
    np.testing.assert_array_equal(project.mask_source.input_mask() == 0, removed)


def test_the_number_of_kept_channels_is_the_one_of_the_rate():
    for kernel in pruned_kernels(
        randomise_scores(prune(topologies.chain(), 0.2, granularity="channel", verbose=False))
    ):
        assert kernel.scores.kept() == int(keep_channels(kernel.scores.rate(), kernel.scores.size))
