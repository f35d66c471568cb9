"""What the checks of an evaluation found, for people."""

import textwrap
from typing import Any

from harp_tf.report import labels

_WIDTH = 100
_PASSED = "Checks of the attacks: nothing found."


def found(results: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Lists the warnings of results.json, each once.

    Args:
        results: as for `results_table`.

    Returns:
        By warning: what it concerns ("dense (Keras): PGD-20, Square"), with radii if there are several; the name of
        the check; and its text.
    """
    concerned: dict[tuple[str, str, str], list[str]] = {}
    for model, result in results.items():
        measured = result.get("attacks", {})
        several = len({entry["eps"] for entries in measured.values() for entry in entries}) > 1
        for attack, entries in measured.items():
            for entry in entries:
                name = labels.attack(attack) + (f" at {entry['eps']:.3g}" if several else "")
                for check in entry["checks"]:
                    if entry.get("crafted_on") not in results:  # else the same is told of the model that was attacked
                        attacks = concerned.setdefault((model, check["check"], check["warning"]), [])
                        attacks += [name] if name not in attacks else []
    return [
        (f"{labels.model(model)}: {', '.join(attacks)}", check, text)
        for (model, check, text), attacks in concerned.items()
    ]


def warnings(results: dict[str, dict[str, Any]]) -> str:
    """Writes the warnings as paragraphs for a terminal; one line if there are none, "" if nothing was attacked."""
    if not any(result.get("attacks") for result in results.values()):
        return ""
    paragraphs = [
        textwrap.fill(f"WARNING ({check}) {what}. {text}", _WIDTH, subsequent_indent="  ")
        for what, check, text in found(results)
    ]
    return "\n" + ("\n".join(paragraphs) or _PASSED)
