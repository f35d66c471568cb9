"""How names and numbers are written for people, the same in the terminal, in plots and on the page."""

import re

MODELS = {
    "dense": "dense (Keras)",
    "pruned": "pruned (Keras)",
    "tflite": "dense (.tflite)",
    "tflite_sparse": "pruned (.tflite)",
}
METHODS = {
    "dense": "dense",
    "dense_control": "dense control",
    "harp": "HARP",
    "harp_best": "HARP, best recipe",
    "harp_joint": "HARP, joint",
    "hydra": "HYDRA",
    "hydra_erk": "HYDRA-ERK",
    "hydra_lamp": "HYDRA-LAMP",
    "rate": "rates only",
    "lwm": "global magnitude",
    "lwm_layer": "layerwise magnitude",
    "radmm": "Robust-ADMM",
    "flying_bird": "Flying Bird",
    "flying_bird_plus": "Flying Bird+",
    "random": "random",
    "tfmot": "tfmot",
}
_RATES = {"erk": "ERK", "igq": "IGQ", "lamp": "LAMP", "harp": "HARP's"}
_LEARN_RATES = ("harp", "harp_joint", "rate")
"""Methods for which the rates after "@" are those to start from."""

_ATTACKS = {
    "autoattack": "AutoAttack",
    "autoattack_rand": "AutoAttack rand",
    "cw": "C&W",
    "cw_inf": "C&W-inf",
    "square": "Square",
}


def model(name: str) -> str:
    """Names an entry of results.json: "tflite_sparse" → "pruned (.tflite)"."""
    return MODELS.get(name, name)


def method(name: str) -> str:
    """Names a pruning method for people: "hydra_erk" → "HYDRA-ERK", "radmm@lamp" → "Robust-ADMM at LAMP rates"."""
    kind, at, rates = name.partition("@")
    known = METHODS.get(kind, kind)
    where = "from" if kind in _LEARN_RATES else "at"
    return f"{known} {where} {_RATES.get(rates, rates)} rates" if at else known


def attack(name: str) -> str:
    """Names an attack as papers do: "pgd20" → "PGD-20", "apgd_ce" → "APGD-CE"."""
    if "+" in name:
        return " + ".join(map(attack, name.split("+")))
    kind = name.rstrip("0123456789")
    if kind != name and kind in _ATTACKS:
        return f"{_ATTACKS[kind]}-{name.removeprefix(kind)}"
    return _ATTACKS.get(name, re.sub(r"(?<=[A-Z])(?=\d)", "-", name.upper().replace("_", "-")))


def percent(share: float) -> str:
    """Writes an accuracy in [0, 1] in percent with one decimal, without the sign: 0.9712 → "97.1"."""
    return f"{100 * share:.1f}"


def sparsity(share: float) -> str:
    """Writes a sparsity in [0, 1] in percent, with decimals that keep it apart from 100: 0.9996 → "99.96"."""
    decimals = 1 if share <= 0.999 else 2
    while share < 1 and round(100 * share, decimals) == 100:
        decimals += 1
    return f"{100 * share:.{decimals}f}"


def size(count: float) -> str:
    """Writes a number of bytes in decimal units: 24300 → "24 kB", 1040000 → "1.0 MB"."""
    if count < 1000:
        return f"{count:.0f} B"
    # From half below 1000 on, rounding would show a fourth digit.
    exponent = 1 if count < 999.5e3 else 2 if count < 999.5e6 else 3
    value, unit = count / 1000**exponent, ("kB", "MB", "GB")[exponent - 1]
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def layers(paths: list[str]) -> list[str]:
    """Shortens paths of kernels: "/kernel" goes where they stay apart, long ones lose their middle."""
    short = [path.removesuffix("/kernel") for path in paths]
    if len(set(short)) < len(short):
        short = paths
    return [name if len(name) <= 30 else f"{name[:13]}…{name[-16:]}" for name in short]
