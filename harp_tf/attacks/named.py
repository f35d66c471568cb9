"""Attacks by the names that people write: pgd20, apgd-ce, autoattack, apgd-ce+square."""

import re
from collections.abc import Callable, Sequence

from harp_tf.attacks.apgd import APGD, APGDTargeted
from harp_tf.attacks.autoattack import AutoAttack, Cascade
from harp_tf.attacks.base import Attack
from harp_tf.attacks.cw import CW
from harp_tf.attacks.fab import FABTargeted
from harp_tf.attacks.fmn import FMN
from harp_tf.attacks.pgd import FGSM, PGD
from harp_tf.attacks.square import Square
from harp_tf.types import HarpError

# The number that may follow a name, and how an attack takes it.
_COUNTED: dict[str, tuple[str, Callable[..., Attack]]] = {
    "pgd": ("steps", PGD),
    "cw": ("steps", CW),
    "apgd_ce": ("steps", APGD),
    "apgd_dlr": ("steps", lambda **settings: APGD(objective="dlr", **settings)),
    "apgd_t": ("steps", APGDTargeted),
    "fab_t": ("steps", FABTargeted),
    "fmn": ("steps", FMN),
    "square": ("queries", Square),
}
_PLAIN: dict[str, Callable[..., Attack]] = {
    "fgsm": FGSM,
    "autoattack": AutoAttack,
    "autoattack_rand": lambda **settings: AutoAttack(version="rand", **settings),
}
NAMES = (*_COUNTED, *_PLAIN)
_STEPS = {"pgd": 20, "cw": 40}
"""Steps in an evaluation, where they are not those of training."""


def get(name: str, *, eps: float, norm: str = "linf", step_size: float | None = None) -> Attack:
    """Makes the attack of a name.

    Args:
        name: one of `NAMES`, dashes for underscores allowed; after a name that takes it, the number of steps (of
            queries for square), as in "pgd20", and of restarts of pgd and cw, as in "pgd20x5"; or several joined by
            "+", a cascade of them.
        eps: radius of the ball, in units of pixels scaled to [0, 1].
        norm: "linf" or "l2".
        step_size: of pgd and cw, in the same units; None for eps / 10.

    Returns:
        The attack.

    Raises:
        HarpError: there is none of that name.
    """
    names = canonical(name).split("+")
    if len(names) > 1:
        parts = [(part, get(part, eps=eps, norm=norm, step_size=step_size)) for part in names]
        if len(set(names)) < len(names) or any(isinstance(part, Cascade) for _, part in parts):
            raise HarpError(f"A cascade joins different single attacks, as in apgd-ce+square; received {name!r}.")
        return Cascade(eps=eps, norm=norm, parts=tuple(parts))
    kind, count, tries = re.fullmatch(r"(?s)(.*?)(\d*)(?:x(\d+))?", names[0]).groups()  # type: ignore[union-attr]
    if kind in _PLAIN and not count and not tries:
        return _PLAIN[kind](eps=eps, norm=norm)
    if kind not in _COUNTED or (count and not int(count)) or (tries and kind not in _STEPS):
        raise HarpError(
            f"Unknown attack {name!r}. Choose from {', '.join(NAMES)}; a number after a name other than "
            f"{', '.join(_PLAIN)} says how many steps (pgd20) or queries (square1000), pgd20x5 restarts five times, "
            "and + makes a cascade."
        )
    what, make = _COUNTED[kind]
    settings: dict = {what: int(count)} if count else {what: _STEPS[kind]} if kind in _STEPS else {}
    if kind in _STEPS:
        settings["step_size"] = eps / 10 if step_size is None else step_size
        settings["restarts"] = int(tries or 1)
    return make(eps=eps, norm=norm, **settings)


def canonical(name: str) -> str:
    """The form of a name under which figures are kept: "PGD-20" and "pgd20" are "pgd20", "apgd-ce" is "apgd_ce"."""
    return re.sub(r"[_-](?=\d)", "", name.strip().lower()).replace("-", "_")


def get_all(
    names: Sequence[str], *, eps: float, norm: str = "linf", step_size: float | None = None
) -> dict[str, Attack]:
    """The attacks of several names by the canonical form of each; errors as in `get`.

    Args:
        names: names as `get` takes them.
        eps: radius, in [0, 1] pixels.
        norm: "linf" or "l2".
        step_size: of pgd and cw, in [0, 1] pixels; None takes their own.
    """
    return {canonical(name): get(name, eps=eps, norm=norm, step_size=step_size) for name in names}
