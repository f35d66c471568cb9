"""How the figures of a new evaluation join earlier ones in results.json, so that none is lost."""

from typing import Any

from harp_tf.answers import unpacked

Figures = dict[str, Any]

_SAME = ("norm", "eps", "n", "seed", "settings", "crafted_on")
"""What two entries of an attack must share for the newer one to be the same measurement, made again."""


def merge(earlier: Figures, newer: Figures, norm: str, eps: float) -> Figures:
    """Joins the figures of one model.

    Args:
        earlier: what results.json has of the model, {} if nothing.
        newer: figures of `attacks.evaluate`.
        norm: of the run's threat model.
        eps: its radius.

    Returns:
        The newer figures, with "attacks" holding all entries of each attack in a list; "robust_accuracy" only what was
        measured at the run's norm and eps, on the most images if there are several entries; "n_robust" the fewest
        images behind any of these; and "security_curve" by attack where there are several radii.
    """
    entries: dict[str, list[Figures]] = {name: list(found) for name, found in earlier.get("attacks", {}).items()}
    for name, entry in newer["attacks"].items():
        others = [old for old in entries.get(name, []) if any(old.get(key) != entry.get(key) for key in _SAME)]
        entries[name] = [*others, entry]
    own = {name: best for name, found in entries.items() if (best := most_images(found, norm, eps))}
    counts = [entry["n"] for entry in own.values()]
    # Of a results.json that knew no entries.
    untold = {name: share for name, share in earlier.get("robust_accuracy", {}).items() if name not in entries}
    if untold and earlier.get("n_robust"):
        counts.append(earlier["n_robust"])
    return {
        # The curves have their place at the end: who measures the same again gets the same file.
        **{key: value for key, value in earlier.items() if key not in (*newer, "security_curve")},
        **newer,
        "robust_accuracy": {**untold, **{name: entry["robust_accuracy"] for name, entry in own.items()}},
        "n_robust": min(counts, default=0),
        "attacks": entries,
        "security_curve": _curves(entries, norm, newer),
    }


def most_images(entries: list[Figures], norm: str, eps: float) -> Figures | None:
    """The entry at a threat model that was measured on the most images, the newest of several, or None."""
    found = [entry for entry in entries if (entry["norm"], entry["eps"]) == (norm, eps)]
    return max(reversed(found), key=lambda entry: entry["n"], default=None)


def _natural(newer: Figures, count: int) -> float:
    """The natural accuracy on the first `count` test images, those attacked; on all if it is not known by image."""
    if "right" not in newer or count >= newer["n_test"]:
        return newer["natural_accuracy"]
    return float(unpacked(newer["right"], newer["n_test"])[:count].mean())


def _curves(entries: dict[str, list[Figures]], norm: str, newer: Figures) -> dict[str, Figures]:
    curves = {}
    for name, found in entries.items():
        points: dict[float, tuple[float, float]] = {}  # by rounded radius: those of a curve are computed
        # The one on the most images comes last and stays, the newest of several.
        own = sorted((entry for entry in found if entry["norm"] == norm), key=lambda entry: entry["n"])
        for entry in own:
            curve = entry.get("curve", {"eps": [], "robust_accuracy": []})
            for point in (*zip(curve["eps"], curve["robust_accuracy"]), (entry["eps"], entry["robust_accuracy"])):
                points[round(point[0], 9)] = point
        if own:
            points[0.0] = 0.0, _natural(newer, own[-1]["n"])
        if len(points) > 2:
            radii, shares = zip(*sorted(points.values()))
            curves[name] = {"norm": norm, "eps": [*radii], "robust_accuracy": [*shares]}
    return curves
