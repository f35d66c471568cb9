"""Who is ahead, and by how much for sure: no claim within two standard errors."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from harp_tf.report import labels
from harp_tf.report.comparison.read import Record

Measured = dict[str, Any]
"""Mean, se, sd, n and images of an accuracy, see comparison.json, and `right`, see `Record`."""

CLEAR = 2.0
"""So many standard errors of a difference are called clear. Of two equally good methods one would be so far ahead by
chance in 5 of 100 comparisons, if the deviation over seeds were known exactly; from three seeds, in about 10."""


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
        seeds: whether the standard errors know how much seeds change at this sparsity. Without that nobody wins.
        borrowed: whether what seeds change at other sparsities is in them instead.
    """

    what: str
    leader: dict[str, Any]
    level: list[dict[str, Any]]
    behind: list[dict[str, Any]]
    values: dict[str, Measured]
    apart: list[dict[str, Any]]
    seeds: bool
    borrowed: bool

    @property
    def ahead(self) -> str | None:
        """The method that is ahead of all others by more than the standard errors explain, if there is one."""
        return self.leader["method"] if self.behind and not self.level else None

    @property
    def winner(self) -> str | None:
        """The same, if the standard errors know of seeds."""
        return self.ahead if self.seeds else None

    def sentence(self) -> str:
        """Says it in words."""
        best = f"{self.what}: {labels.method(self.leader['method'])} {self._percent(self.leader)} %"
        if not self.level and not self.behind:
            return f"{best}, the only method{self._left_out()}."
        points, name = self._gap(self.behind[0]) if self.behind else ("", "")
        doubt = "" if self.seeds else "; what other seeds would change is not known"
        if self.borrowed:
            doubt = "; one seed each, and the deviation of seeds at other sparsities in the error"
        rest = doubt + self._left_out()
        if not self.level:
            return f"{best} {'wins' if self.winner else 'leads'}, {points} ahead of {name}{rest}."
        others = ", ".join(f"{labels.method(g['method'])} {self._percent(g)} %" for g in self.level)
        text = f"{best} and {others} are level, within two standard errors"
        return (f"{text}; the next, {name}, is {points} behind" if self.behind else text) + f"{rest}."

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

    Both were measured on the same test images. Where it is known which ones each was right on, images that both find
    easy or both find hard say nothing about the difference and do not add to its error (a paired comparison). Where it
    is not, the errors are added as if the images were different ones, which is too much.
    """
    gap = a["mean"] - b["mean"]
    if "right" not in a or "right" not in b or a["images"] != b["images"]:
        return gap, math.hypot(a["se"], b["se"])
    of_images = float(np.var(a["right"] - b["right"])) / a["images"]
    return gap, math.sqrt(of_images + _of_seeds(a) + _of_seeds(b))


def _of_seeds(measured: Measured) -> float:
    """The part of the squared standard error that is not of the images, see `comparison.statistics.summary`."""
    mean = measured["mean"]
    return max(0.0, measured["se"] ** 2 - mean * (1 - mean) / measured["images"])


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
    what = "natural" if attack is None else labels.attack(attack)
    seeds = any(values[g["method"]]["sd"] is not None for g in ranked)  # one method's stand in for all, see `groups`
    borrowed = any(values[g["method"]].get("borrowed") for g in ranked)
    return Standing(what, ranked[0], level, behind, values, apart, seeds, borrowed)


def standings(record: Record, loss: str, target: float) -> list[Standing]:
    """The standing in natural accuracy and under the attacks to rank by, as far as models were measured with them.

    Under the second of these nobody is ranked before all that are best under the first were measured with it: the best
    of the others would look like the best of all.
    """
    groups = record.pruned(loss, target)
    found = [standing(groups, attack) for attack in (None, *record.ranking[:1])]
    first = found[-1]
    best = [first.leader, *first.level] if first is not None else []
    found += [standing(groups, a) for a in record.ranking[1:] if all(a in group["robust"] for group in best)]
    return [one for one in found if one is not None]


def headline(record: Record) -> str:
    """Over all sparsities and losses: how often who wins, or leads where seeds are unknown, and who is never behind."""
    found = [s for loss in record.losses for target in record.targets(loss) for s in standings(record, loss, target)]
    contested = [s for s in found if s.level or s.behind]
    if not contested:
        return "" if not found else "One method; nothing to compare it with yet."
    ahead = Counter((s.ahead, "wins" if s.winner else "leads") for s in contested if s.ahead)
    total = len(contested)
    unbeaten = _unbeaten(contested)
    if not ahead:
        comparisons = f"{total} comparison{'s' * (total > 1)}"
        return f"No clear winner in {comparisons}: the best are within two standard errors.{unbeaten}"
    parts = [f"{labels.method(method)} {verb} {count} of {total}" for (method, verb), count in ahead.most_common()]
    if total > ahead.total():
        parts.append(f"{total - ahead.total()} without a clear winner")
    what = "natural and robust accuracy at each sparsity, by more than two standard errors"
    leads = "; leads: from one seed per method" if any(verb == "leads" for _, verb in ahead) else ""
    return f"{', '.join(parts)} ({what}{leads}).{unbeaten if total > ahead.total() else ''}"


def _unbeaten(contested: list[Standing]) -> str:
    """Names the methods that are among the best everywhere, if others are not."""
    best = [[group["method"] for group in (s.leader, *s.level)] for s in contested]
    everywhere = [method for method in best[0] if all(method in methods for methods in best)]
    if not everywhere or not any(s.behind for s in contested):
        return ""
    return f" Never clearly behind: {', '.join(map(labels.method, everywhere))}."
