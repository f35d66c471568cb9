"""Channels as numbers: uniting, fixing, runs."""

import numpy as np

from harp_tf.layers.channel_ids import ChannelIds


def runs(ids: ChannelIds) -> list[int]:
    return sorted(len(chain) for chain in ids.chains())


def test_blocks_are_runs_until_something_cuts_them():
    ids = ChannelIds()
    a, b, c = ids.block(3), ids.block(2), ids.block(5)
    assert runs(ids) == [2, 3, 5]
    ids.unite(np.concatenate([a, b]), c)
    assert runs(ids) == [2, 3]
    assert ids.roots(c) == ids.roots(np.concatenate([a, b]))


def test_uniting_in_both_orders_cuts_where_the_neighbours_differ():
    ids = ChannelIds()
    a, b = ids.block(4), ids.block(2)
    ids.unite(np.concatenate([a, b]), np.concatenate([b, a]))
    # a0 = b0 = a2 and a1 = b1 = a3: one run of two channels, twice in a.
    assert runs(ids) == [2]
    assert ids.roots(a) == ids.roots(b) * 2


def test_a_block_united_with_itself_repeated():
    ids = ChannelIds()
    a, b = ids.block(3), ids.block(6)
    ids.unite(np.tile(a, 2), b)
    assert runs(ids) == [3]
    assert ids.roots(b) == ids.roots(a) * 2


def test_the_first_reason_counts_and_holds_for_all_that_is_united():
    ids = ChannelIds()
    a, b, c = ids.block(2), ids.block(2), ids.block(2)
    ids.fix(b, "first")
    ids.fix(a, "second")
    ids.unite(a, b)
    assert ids.reasons() == dict.fromkeys(ids.roots(a), "first")
    assert not set(ids.roots(c)) & set(ids.reasons())


def test_every_block_is_a_sequence_of_whole_runs():
    draws = np.random.default_rng(0)
    for _ in range(50):
        ids = ChannelIds()
        blocks = [ids.block(int(n)) for n in draws.integers(1, 9, 5)]
        for _ in range(4):
            parts = [blocks[i] for i in draws.integers(0, 5, draws.integers(1, 4))]
            made = np.concatenate(parts)
            other = ids.block(len(made))
            ids.unite(other, made)
            blocks[draws.integers(0, 5)] = other
        chains = {chain[0]: chain for chain in ids.chains()}
        for block in blocks:
            row = ids.roots(block)
            while row:
                chain = chains[row[0]]
                assert row[: len(chain)] == chain
                row = row[len(chain) :]
