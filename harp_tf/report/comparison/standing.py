"""Who is ahead, and by how much for sure: no claim within two standard errors."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from harp_tf.report import labels
from harp_tf.report.comparison.read import Record

Measured = dict[str, Any]
"""Mean, se, sd, n and images of an accuracy, see comparison.json."""

CLEAR = 2.0
"""So many standard errors of a difference are called clear: of two equally good methods one would be so far ahead by
chance in 5 of 100 comparisons, and within one standard error in 32."""


@dataclass(frozen=True)
class Standing:
    """How the methods stand in one accuracy at one sparsity.

    Attributes:
        what: the accuracy, as "natural" or "PGD-20".
        leader: the group with the highest mean.
        level: groups that are behind by at most `CLEAR` standard errors of the difference, nearest first.
        behind: all others, nearest first.
        values: the accuracy of every group, by method.
        apart: groups that were measured on another number of images, and are not ranked.
    """

    what: str
    leader: dict[str, Any]
    level: list[dict[str, Any]]
    behind: list[dict[str, Any]]
    values: dict[str, Measured]
    apart: list[dict[str, Any]]

    @property
    def winner(self) -> str | None:
        """The method that is clearly ahead of all others, if there is one."""
        return self.leader["method"] if self.behind and not self.level else None

    def sentence(self) -> str:
        """Says it in words."""
        best = f"{self.what}: {labels.method(self.leader['method'])} {self._percent(self.leader)} %"
        if not self.level and not self.behind:
            return f"{best}, the only method{self._left_out()}."
        points, name = self._gap(self.behind[0]) if self.behind else ("", "")
        if not self.level:
            return f"{best} wins, {points} ahead of {name}{self._left_out()}."
        others = ", ".join(f"{labels.method(g['method'])} {self._percent(g)} %" for g in self.level)
        text = f"{best} and {others} are level, within two standard errors"
        return (f"{text}; the next, {name}, is {points} behind" if self.behind else text) + f"{self._left_out()}."

    def _left_out(self) -> str:
        names = ", ".join(labels.method(g["method"]) for g in self.apart)
        return f" (not ranked, measured on other images: {names})" if names else ""

    def _percent(self, group: dict[str, Any]) -> str:
        return labels.percent(self.values[group["method"]]["mean"])

    def _gap(self, group: dict[str, Any]) -> tuple[str, str]:
        """How far the leader is ahead of a group, and the group's name."""
        gap, error = difference(self.values[self.leader["method"]], self.values[group["method"]])
        return f"{100 * gap:.1f} points (standard error {100 * error:.1f})", labels.method(group["method"])


def difference(a: Measured, b: Measured) -> tuple[float, float]:
    """Difference a - b of two mean accuracies, and its standard error.

    The errors are added as if independent. Both were measured on the same test images, so the true error is smaller.
    """
    return a["mean"] - b["mean"], math.hypot(a["se"], b["se"])


def standing(groups: list[dict[str, Any]], attack: str | None) -> Standing | None:
    """Ranks pruned groups of one sparsity; None if fewer than one has the accuracy.

    Args:
        groups: see `Record.pruned`.
        attack: name of the attack, None for natural accuracy.
    """
    values = {g["method"]: g["natural"] if attack is None else g["robust"].get(attack) for g in groups}
    known = [g for g in groups if values[g["method"]]]
    if not known:
        return None
    counts = Counter(values[g["method"]]["images"] for g in known)
    usual = max(counts, key=lambda images: (counts[images], images))
    ranked = sorted(
        (g for g in known if values[g["method"]]["images"] == usual), key=lambda g: -values[g["method"]]["mean"]
    )
    level: list[dict[str, Any]] = []
    behind: list[dict[str, Any]] = []
    for group in ranked[1:]:
        gap, error = difference(values[ranked[0]["method"]], values[group["method"]])
        (behind if gap > CLEAR * error else level).append(group)
    apart = [group for group in known if group not in ranked]
    return Standing("natural" if attack is None else labels.attack(attack), ranked[0], level, behind, values, apart)


def standings(record: Record, loss: str, target: float) -> list[Standing]:
    """The standing in natural accuracy and under the strongest attack."""
    found = [standing(record.pruned(loss, target), attack) for attack in dict.fromkeys((None, record.strongest))]
    return [one for one in found if one is not None]


def headline(record: Record) -> str:
    """One sentence over all sparsities and losses: who wins how often."""
    found = [s for loss in record.losses for target in record.targets(loss) for s in standings(record, loss, target)]
    contested = [s for s in found if s.level or s.behind]
    if not contested:
        return "" if not found else "One method; nothing to compare it with yet."
    wins = Counter(s.winner for s in contested if s.winner)
    total = len(contested)
    if not wins:
        return f"No clear winner in {total} comparison{'s' * (total > 1)}: the best are within two standard errors."
    parts = [f"{labels.method(method)} wins {count} of {total}" for method, count in wins.most_common()]
    if total > sum(wins.values()):
        parts.append(f"{total - sum(wins.values())} without a clear winner")
    return f"{', '.join(parts)} (natural and robust accuracy at each sparsity, by more than two standard errors)."
