"""Channel spaces: which input channels of which layers can only be removed together."""

import dataclasses
from collections.abc import Collection

import keras

from harp_tf.layers.channel_rules import ChannelFlow
from harp_tf.layers.graph import graph_of
from harp_tf.layers.part import Part


@dataclasses.dataclass(frozen=True)
class Spaces:
    """The channel spaces of a model.

    Attributes:
        reads: per reader, the parts of its input axis, in order; readers of which it is not known are missing.
        fixed: per reader without a channel that can be removed, the reason.
    """

    reads: dict[str, tuple[Part, ...]]
    fixed: dict[str, str]


def find_spaces(model: keras.Model, readers: Collection[str]) -> Spaces:
    """Finds the input channels of layers that can be removed, and which of them are the same.

    A space is a row of channels that every reader reads in whole: all tensors that an addition, a depthwise
    convolution or any other operation channel by channel ties together belong to one. Its name is the path of its
    first reader, followed by "/inputs". What the model takes and returns, what an operation reads whose effect on
    channels is not known, and rows of a single channel are never removed.

    Args:
        model: a plain Sequential or Functional model.
        readers: paths of the layers that may be masked, in the order of the network.

    Raises:
        HarpError: if the model is no graph of layers.
    """
    flow = ChannelFlow(graph_of(model), set(readers))
    reasons = flow.ids.reasons()
    chain_of = {channel: chain for chain in map(tuple, flow.ids.chains()) for channel in chain}
    names: dict[tuple[int, ...], str] = {}
    reads: dict[str, tuple[Part, ...]] = {}
    fixed: dict[str, str] = {}
    for path in readers:
        if path not in flow.reads:
            continue
        row: list[tuple[str | None, int]] = []
        why, own = "", 0
        for chain in _chains_along(flow, path, chain_of):
            if chain[0] in reasons or len(chain) == 1:
                why = reasons.get(chain[0], "a single channel")
                before = row.pop()[1] if row and row[-1][0] is None else 0
                row.append((None, before + len(chain)))
                continue
            if chain not in names:
                own += 1
                names[chain] = f"{path}/inputs" + (f"_{own}" if own > 1 else "")
            row.append((names[chain], len(chain)))
        reads[path] = _parts(row)
        if all(name is None for name, _ in row):
            fixed[path] = why
    return Spaces(reads, fixed)


def _chains_along(flow: ChannelFlow, path: str, chain_of: dict[int, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The runs of channels along the axis that a layer reads."""
    channels, found = flow.ids.roots(flow.reads[path]), []
    while channels:
        found.append(chain_of[channels[0]])
        channels = channels[len(found[-1]) :]
    return found


def _parts(row: list[tuple[str | None, int]]) -> tuple[Part, ...]:
    """The row with repetitions written as such: the first, shortest one at each place."""
    parts = []
    while row:
        for length in range(1, len(row) // 2 + 1):
            repeat = 1
            while row[repeat * length : (repeat + 1) * length] == row[:length]:
                repeat += 1
            if repeat > 1:
                break
        else:
            length = repeat = 1
        parts.append(Part(tuple(row[:length]), repeat))
        row = row[repeat * length :]
    return tuple(parts)
