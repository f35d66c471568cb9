"""Strategies that begin with something valid and damage it a little, so that the damage is read far into."""

import copy
import json
import struct

from hypothesis import strategies as st

EXTREMES = [0, 1, 2, 3, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS = [*EXTREMES, -1, -(2**31), 2**40, 2**53, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308]
NAMES = st.sampled_from(
    ["", "a", "..", "../x", "/", "/etc/passwd", "\0", "\n", "ä", "\u202e", "$x$", "\udcff", "x" * 300]
)


@st.composite
def damaged(draw, valid: bytes, most: int = 3) -> bytes:
    """`valid` with one to `most` changes: cut, bits, bytes, numbers, pieces gone, doubled or new."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, most))):
        near_start = st.integers(0, min(len(data), 64))
        at = draw(near_start | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["cut", "bit", "byte", "number", "gone", "double", "new"]))
        if kind == "cut":
            del data[at:]
        elif kind == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        elif kind == "number":
            number = struct.pack(draw(st.sampled_from([">I", "<I"])), draw(st.sampled_from(EXTREMES)))
            data[at : at + 4] = number
        elif kind == "gone":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
        elif kind == "new":
            data[at:at] = draw(st.binary(max_size=12))
    return bytes(data)


def any_json() -> st.SearchStrategy:
    """Whatever JSON, and Python's NaN and Infinity."""
    leaves = (
        st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | st.floats() | NAMES | st.text(max_size=8)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )


def places(tree, path=()) -> list[tuple]:
    """Where the values of a JSON tree are."""
    found = [path]
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        found += places(value, (*path, key))
    return found


@st.composite
def altered(draw, valid, values: st.SearchStrategy | None = None, most: int = 2):
    """A JSON tree in which one to `most` values are others, gone, or moved from elsewhere in it."""
    tree = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, most))):
        where = places(tree)
        path = where[draw(st.integers(0, len(where) - 1))]
        kind = draw(st.sampled_from(["other", "other", "gone", "moved", "named"]))
        if not path:
            if kind == "other" and draw(st.integers(0, 9)) == 0:
                return draw(any_json())
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        if kind == "other":
            parent[path[-1]] = draw(any_json() if values is None else values | any_json())
        elif kind == "gone":
            del parent[path[-1]]
        elif kind == "moved":
            source = tree
            for key in where[draw(st.integers(0, len(where) - 1))]:
                source = source[key]
            parent[path[-1]] = copy.deepcopy(source)
        elif isinstance(parent, dict):
            parent[draw(NAMES | st.text(max_size=6))] = parent.pop(path[-1])
    return tree


def json_text(tree) -> bytes:
    """The bytes of a JSON file; a lone surrogate becomes an escape."""
    return json.dumps(tree).encode()
