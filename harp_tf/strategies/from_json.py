"""Rates from a file: the strategy of an earlier run, or one written by hand."""

import os
from collections.abc import Sequence
from typing import Any

from harp_tf.reading import read_json
from harp_tf.strategies.base import KernelInfo, Strategy
from harp_tf.types import HarpError, is_number


def from_json(path: str | os.PathLike) -> Strategy:
    """Makes a strategy of a JSON file.

    Args:
        path: a file {"conv1/kernel": 0.5, ...}, or the rates.json of a run.

    Returns:
        A strategy that gives each kernel its rate from the file and ignores the overall rate.

    Raises:
        HarpError: if the file cannot be read or does not hold rates in (0, 1].
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise HarpError(f"Cannot read the rates file {os.fspath(path)}: {error}.") from error
    layers = content.get("layers", content) if isinstance(content, dict) else None
    if not isinstance(layers, dict) or not layers:
        raise HarpError(f'{os.fspath(path)} must be a JSON object {{"layer/kernel": rate}} or the rates.json of a run.')
    rates: dict[str, Any] = {
        name: entry.get("rate") if isinstance(entry, dict) else entry for name, entry in layers.items()
    }
    for name, rate in rates.items():
        if not is_number(rate) or not 0.0 < rate <= 1.0:
            raise HarpError(f"{os.fspath(path)}: the rate of {name!r} must be in (0, 1], received {rate!r}.")

    def strategy(kernels: Sequence[KernelInfo], rate: float) -> dict[str, float]:
        wanted = {kernel.path for kernel in kernels}
        missing, unknown = sorted(wanted - set(rates)), sorted(set(rates) - wanted)
        if missing or unknown:
            raise HarpError(
                f"{os.fspath(path)} does not fit the model: no rate for {missing or 'none'}, unknown layers "
                f"{unknown or 'none'}. It must name exactly the prunable kernels of the model."
            )
        return {kernel.path: float(rates[kernel.path]) for kernel in kernels}

    return strategy
