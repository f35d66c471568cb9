"""Floors and ceilings of the rates of single layers."""

from collections.abc import Collection, Mapping, Sequence

from harp_tf.types import HarpError, RateBound


def rate_bounds_from(rate_bounds: Mapping[str, Sequence[float | None]]) -> list[RateBound]:
    """Checks what the user gave `prune` as `rate_bounds`.

    Args:
        rate_bounds: (smallest, largest) rate by name, path or regular expression.

    Raises:
        HarpError: if it is no such mapping, or a bound is out of its range.
    """
    if not isinstance(rate_bounds, Mapping):
        raise HarpError(f"rate_bounds must be a dict, e.g. {{'conv1': (0.1, 0.5)}}, received {rate_bounds!r}.")
    for layers, pair in rate_bounds.items():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise HarpError(f"rate_bounds of {layers!r} must be a pair (smallest, largest), received {pair!r}.")
    return [RateBound(layers, low, high) for layers, (low, high) in rate_bounds.items()]


def bounds_of(path: str, rate_bounds: Sequence[RateBound], minimum_rate: float) -> tuple[float, float] | None:
    """The smallest and the largest rate of a kernel, from the last bound that is about it.

    Args:
        path: of the kernel, e.g. "conv1/kernel", or of what shares a rate.
        rate_bounds: in their order.
        minimum_rate: the floor of a layer for which none is given.

    Returns:
        (low, high), or None if no bound is about it.

    Raises:
        HarpError: if a ceiling lies below the floor.
    """
    found = [bound for bound in rate_bounds if bound.matches(path)]
    if not found:
        return None
    low = minimum_rate if found[-1].low is None else float(found[-1].low)
    high = 1.0 if found[-1].high is None else float(found[-1].high)
    if low > high:
        raise HarpError(
            f"rate_bounds gives {path!r} a ceiling of {high:g}, below the floor of all rates, {low:g} (floor_factor "
            f"times the target rate). Give it a floor as well: {found[-1].layers!r}: ({high / 10:g}, {high:g})."
        )
    return low, high


def require_matches(rate_bounds: Sequence[RateBound], paths: Collection[str]) -> None:
    """Raises a HarpError if a bound is about none of the pruned kernels."""
    unmatched = [repr(bound.layers) for bound in rate_bounds if not any(bound.matches(path) for path in paths)]
    if unmatched:
        raise HarpError(
            f"rate_bounds names layers that are not pruned: {', '.join(unmatched)}. The pruned ones are "
            f"{', '.join(paths)}."
        )
