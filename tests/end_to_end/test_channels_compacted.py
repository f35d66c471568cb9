"""Channels that were pruned are gone after compaction, and no logit has changed."""

import numpy as np
import pytest

import harp_tf
from harp_tf.layers import layer_costs, project_to_budget, pruned_kernels, rate_table, strip
from tests.layers import topologies
from tests.layers.nets import randomise_scores


def multiply_adds(model) -> int:
    return sum(cost.multiply_adds for cost in layer_costs(model).values())


@pytest.mark.parametrize(
    "topology, readers",
    [
        (topologies.chain, {"conv2/inputs": "conv2", "logits/inputs": "logits"}),
        (topologies.residual, {"a1/inputs": "b_shortcut", "a2/inputs": "a2", "b2/inputs": "b2"}),
        (topologies.inverted_residual, {"expand/inputs": "expand", "depthwise/inputs": "project"}),
        (topologies.squeeze_and_excite, {"squeeze/inputs": "squeeze", "excite/inputs": "excite"}),
    ],
)
def test_what_strip_leaves_can_be_removed(topology, readers):
    dense = topology()
    pruned = harp_tf.prune(dense, 0.05, granularity="channel", channel_multiple=1, verbose=False)
    randomise_scores(pruned)
    for kernel in pruned_kernels(pruned):
        kernel.scores.set_count(kernel.scores.size // 2)
        kernel.follow()
    project_to_budget(pruned)
    kept = {path: row["kept_channels"] for path, row in rate_table(pruned).items()}
    plain = strip(pruned)
    small = harp_tf.compact(plain, verbose=False)
    for space, layer in readers.items():
        assert small.get_layer(layer).kernel.shape[-2] == kept[space]
    assert multiply_adds(small) < 0.5 * multiply_adds(dense)
    (images,) = topologies.example(dense)
    np.testing.assert_allclose(small(images), plain(images), rtol=1e-4, atol=1e-5)
