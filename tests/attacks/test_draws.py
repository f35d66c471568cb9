"""Random numbers with one stream for a batch or one for each example."""

import numpy as np
import tensorflow as tf

from harp_tf.attacks import draws


def test_an_examples_numbers_depend_on_its_seed_alone():
    seeds = draws.per_example(7, tf.range(6))
    for draw in (draws.uniform, draws.normal):
        together = draw([6, 4, 3], seeds).numpy()
        for order in ([5, 0, 3], [2]):
            np.testing.assert_array_equal(draw([len(order), 4, 3], tf.gather(seeds, order)), together[order])
        assert len(np.unique(together)) == together.size


def test_folded_seeds_differ_from_each_other_and_from_those_of_other_examples():
    seeds = draws.per_example(0, tf.range(50))
    numbers = [draws.uniform([50, 2], s).numpy() for s in (seeds, draws.fold(seeds, 0), draws.fold(seeds, 1))]
    assert len(np.unique(np.stack(numbers))) == 300


def test_the_range_and_the_compiled_numbers():
    seeds = draws.per_example(1, tf.range(100))
    drawn = draws.uniform([100, 50], seeds, -1.0, 3.0).numpy()
    assert drawn.min() >= -1.0 and drawn.max() < 3.0
    np.testing.assert_allclose(drawn.mean(), 1.0, atol=0.05)
    np.testing.assert_array_equal(tf.function(draws.uniform)([100, 50], seeds, -1.0, 3.0), drawn)
