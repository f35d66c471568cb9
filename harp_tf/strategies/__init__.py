"""Initial rates per layer: one file, one rule."""

import os

from harp_tf.strategies.base import KernelInfo, Strategy
from harp_tf.strategies.erk import erk
from harp_tf.strategies.from_json import from_json
from harp_tf.strategies.igq import igq
from harp_tf.strategies.lamp import lamp
from harp_tf.strategies.uniform import uniform
from harp_tf.types import HarpError

NAMED = {"uniform": uniform, "erk": erk, "igq": igq, "lamp": lamp}


def get(strategy: str | os.PathLike | Strategy) -> Strategy:
    """Resolves a strategy.

    Args:
        strategy: "uniform", "erk", "igq", "lamp", the path of a JSON file of rates, or a function.

    Returns:
        A function (kernels, overall rate) -> rate by path.

    Raises:
        HarpError: if the name is unknown or the file cannot be used.
    """
    if callable(strategy):
        return strategy
    if str(strategy) in NAMED:
        return NAMED[str(strategy)]
    if isinstance(strategy, (str, os.PathLike)) and str(strategy).endswith(".json"):
        return from_json(strategy)
    raise HarpError(
        f"strategy must be one of {', '.join(NAMED)}, the path of a .json file of rates, or a function (kernels, rate) "
        f"-> rate by path, received {strategy!r}."
    )


__all__ = ["KernelInfo", "Strategy", "erk", "from_json", "get", "igq", "lamp", "uniform"]
