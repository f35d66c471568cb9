"""Channels of tensors as numbers, united where an operation ties them together."""

import numpy as np


class ChannelIds:
    """A number per channel of every tensor, and which of them are the same channel.

    Producers (convolutions, Dense layers, inputs) make blocks of new channels. The channels of every other tensor are
    a sequence of such blocks, in whole, each perhaps several times (a concatenation, a flattened image).
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._blocks: list[np.ndarray] = []
        self._fixed: list[tuple[np.ndarray, str]] = []

    def block(self, channels: int) -> np.ndarray:
        """Makes a block of `channels` new channels; an int array [channels]."""
        ids = np.arange(len(self._parent), len(self._parent) + channels)
        self._parent.extend(ids.tolist())
        self._blocks.append(ids)
        return ids

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Declares two tensors' channels [c] to be the same ones, channel by channel."""
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            self._parent[self._root(other)] = self._root(one)

    def fix(self, ids: np.ndarray, reason: str) -> None:
        """Declares that channels [c] can never be removed, and why; the first reason of a channel counts."""
        self._fixed.append((ids, reason))

    def _root(self, channel: int) -> int:
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def roots(self, ids: np.ndarray) -> list[int]:
        """The representative of each of the channels [c]: equal for those that were united."""
        return [self._root(channel) for channel in ids.tolist()]

    def reasons(self) -> dict[int, str]:
        """Why a channel is fixed, by representative; channels that can be removed are not in it."""
        found: dict[int, str] = {}
        for ids, reason in self._fixed:
            for root in self.roots(ids):
                found.setdefault(root, reason)
        return found

    def chains(self) -> list[list[int]]:
        """The representatives in runs that occur in whole wherever they occur.

        Two channels follow each other in a run if they do so in every block, so each block is a sequence of whole
        runs: an addition of concat(a, b) and c cuts c in two.
        """
        following: dict[int, set[int | None]] = {}
        preceding: dict[int, set[int | None]] = {}
        for block in self._blocks:
            row: list[int | None] = [None, *self.roots(block), None]
            for before, channel, after in zip(row, row[1:], row[2:]):
                if channel is not None:
                    following.setdefault(channel, set()).add(after)
                    preceding.setdefault(channel, set()).add(before)

        def successor(channel: int) -> int | None:
            after = next(iter(following[channel])) if len(following[channel]) == 1 else None
            return after if after is not None and preceding[after] == {channel} else None

        linked = {after for channel in following if (after := successor(channel)) is not None}
        chains = []
        for channel in following:
            if channel not in linked:
                chain = [channel]
                while (after := successor(chain[-1])) is not None:
                    chain.append(after)
                chains.append(chain)
        return chains
