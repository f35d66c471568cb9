"""From the records of an evaluation's batches to the figures that are reported."""

from collections.abc import Mapping, Sequence

import numpy as np

from harp_tf.attacks import checks
from harp_tf.attacks.autoattack import Cascade
from harp_tf.attacks.base import Attack
from harp_tf.attacks.checks import Finding
from harp_tf.attacks.square import Square
from harp_tf.attacks.state import Record
from harp_tf.attacks.tally import accuracies

CURVE_POINTS = 21
"""Points of the security curve of an attack that finds distances, from radius 0 to twice its eps."""


def of_predictor(
    name: str,
    records: Sequence[Record],
    attacks: Mapping[str, Attack],
    findings: Sequence[Finding],
    num_classes: int,
    crafted_on: str,
    seed: int,
) -> dict:
    """All figures of one predictor.

    Args:
        name: of the predictor.
        records: one per batch, see `evaluation`.
        attacks: the attacks by name.
        findings: what is wrong with the attacked model.
        num_classes: number of classes.
        crafted_on: the predictor that was attacked.
        seed: of the evaluation.

    Returns:
        natural_accuracy, balanced_accuracy, per_class, ci95, right, n_test, n_robust, robust_accuracy by attack, of
        another predictor than the attacked one max_logit_difference to that on the clean images, and "attacks" by
        attack: norm, eps, n, robust_accuracy, ci95, balanced_accuracy, per_class, right (which examples, see
        `answers.packed`: two models are compared on the same ones), settings, checks, and, where there is something to
        say, stages (accuracy after each part of a cascade), curve and median_distance (of an attack that finds
        distances), crafted_on (another predictor) and note.
    """
    labels = joined(records, "labels", int)
    natural = accuracies(labels, joined(records, f"right/{name}", bool), num_classes)
    # An attacked batch before one that is not: the attacked examples are the first ones.
    attacked = sum(int(record["attacked"]) for record in records)
    entries = {}
    for attack, settings in attacks.items() if attacked else ():
        standing = joined(records, f"standing/{attack}/{name}", bool)
        found = accuracies(labels[:attacked], standing, num_classes)
        # What a short Square fools says nothing against an attack that has a longer one itself.
        own = [f for f in findings if f.check != checks.BLACK_BOX or not sees_no_gradient(settings)]
        own += checks.too_few(int(standing.sum()), attacked)
        own += _beaten_by_square(attack, standing, attacks, records, name, attacked)
        entry = {
            "norm": settings.norm,
            "eps": settings.eps,
            "n": found["n"],
            "robust_accuracy": found["accuracy"],
            "ci95": found["ci95"],
            "balanced_accuracy": found["balanced_accuracy"],
            "per_class": found["per_class"],
            "right": found["right"],
        }
        if isinstance(settings, Cascade):
            key = f"parts/{attack}/{name}"
            counts = np.sum([record[key] for record in records if key in record], axis=0).tolist()
            entry["stages"] = {part: count / attacked for (part, _), count in zip(settings.parts, counts)}
            own += _beaten_in_cascade(settings, counts, attacked)
        if name != crafted_on:
            entry["crafted_on"] = crafted_on
        elif f"distances/{attack}" in records[0]:
            entry |= _distances(joined(records, f"distances/{attack}", float), settings.eps)
        if note := settings.note(num_classes):
            entry["note"] = note
        entries[attack] = {
            **entry,
            "seed": seed,
            "settings": settings.as_dict(),
            "checks": [finding.as_dict() for finding in own],
        }
    gap = {} if name == crafted_on else {"max_logit_difference": float(joined(records, f"off/{name}", float).max())}
    return {
        "natural_accuracy": natural["accuracy"],
        "balanced_accuracy": natural["balanced_accuracy"],
        "robust_accuracy": {attack: entry["robust_accuracy"] for attack, entry in entries.items()},
        "n_test": natural["n"],
        "n_robust": attacked,
        "ci95": natural["ci95"],
        "per_class": natural["per_class"],
        "right": natural["right"],
        **gap,
        "attacks": entries,
    }


def joined(records: Sequence[Record], key: str, kind: type) -> np.ndarray:
    """One array of all records that have the key, in their order; empty, of the given type, if none has."""
    found = [record[key] for record in records if key in record]
    return np.concatenate(found) if found else np.zeros(0, kind)


def sees_no_gradient(attack: Attack) -> bool:
    """Whether an attack needs the answers of the model only, or has a part that does."""
    return isinstance(attack, Square) or (
        isinstance(attack, Cascade) and any(sees_no_gradient(part) for _, part in attack.parts)
    )


def black_box_parts(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """Of attacks by name, those that need the answers of the model only, parts of cascades included.

    Args:
        attacks: attacks by the names of their figures.
    """
    found: dict[str, Attack] = {}
    for name, attack in attacks.items():
        if isinstance(attack, Cascade):
            found |= black_box_parts(dict(attack.parts))
        elif sees_no_gradient(attack):
            found[name] = attack
    return found


def _distances(distances: np.ndarray, eps: float) -> dict:
    radii = np.linspace(0.0, 2.0 * eps, CURVE_POINTS)
    median = float(np.median(distances))
    return {
        "median_distance": median if np.isfinite(median) else None,
        "curve": {
            "eps": [float(radius) for radius in radii],
            "robust_accuracy": [float((distances > radius).mean()) for radius in radii],
        },
    }


def _beaten_by_square(
    attack: str,
    standing: np.ndarray,
    attacks: Mapping[str, Attack],
    records: Sequence[Record],
    name: str,
    attacked: int,
) -> list[Finding]:
    """Whether an attack that follows gradients leaves standing what a Square of the same evaluation fools."""
    settings = attacks[attack]
    for other, square in attacks.items() if not sees_no_gradient(settings) else ():
        if isinstance(square, Square) and square.eps == settings.eps:
            both = standing & joined(records, f"standing/{other}/{name}", bool)
            return checks.black_box_beats_white_box(int(standing.sum()), int(both.sum()), attacked, checks.MUCH)
    return []


def _beaten_in_cascade(cascade: Cascade, counts: Sequence[int], attacked: int) -> list[Finding]:
    kinds = [sees_no_gradient(part) for _, part in cascade.parts]
    return [
        finding
        for place in range(1, len(kinds))
        if kinds[place] and not any(kinds[:place])
        for finding in checks.black_box_beats_white_box(counts[place - 1], counts[place], attacked, checks.FEW)
    ]
