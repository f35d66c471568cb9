"""The tables of a comparison, as plain text."""

import json
import statistics
from pathlib import Path
from typing import Any

from harp_tf.report import labels
from harp_tf.report.comparison.read import CONTROL, Record, read_comparison
from harp_tf.report.comparison.standing import headline, standings
from harp_tf.report.table import Table, align


def comparison_table(directory: str | Path) -> str:
    """Writes the comparison in a directory for a terminal: a table per loss, and who is ahead.

    Returns:
        Lines joined by newlines, without one at the end.

    Raises:
        HarpError: if there is no record of a comparison.
    """
    record = read_comparison(directory)
    parts = []
    for loss in record.losses:
        parts.append(f"Trained with the loss {loss}:\n{align(everything(record, loss))}")
        parts += filter(None, [unpruned(record, loss)])
        for target in record.targets(loss):
            lines = [f"  {standing.sentence()}" for standing in standings(record, loss, target)]
            parts.append("\n".join([f"{labels.sparsity(target)} % sparsity", *lines]))
    return "\n\n".join([*parts, *filter(None, [headline(record), note(record), checks(record), unlike(record)])])


def everything(record: Record, loss: str) -> Table:
    """A header and a row per method and sparsity: accuracies in percent, weights, file, seeds."""
    groups = record.references(loss) + [g for target in record.targets(loss) for g in record.pruned(loss, target)]
    rows = []
    for g, row in zip([None, *groups], accuracies(record, groups, "method")):
        if g is None:
            more = ["sparsity", "kept", "file"]
        else:
            removed = f"{labels.sparsity(g['sparsity'])} %" if g["target"] is not None else "-"
            more = [removed, f"{g['kept']:,.0f}", labels.size(g["file_bytes"]) if g["file_bytes"] else "-"]
        rows.append([row[0], more[0], *row[1:-1], *more[1:], row[-1]])
    return rows


def accuracies(record: Record, groups: list[dict[str, Any]], title: str) -> Table:
    """A header, which begins with a title, and a row per group: accuracies in percent and the number of seeds.

    Beside the natural accuracy stands that of the class that is recognised least (a mean over seeds). An accuracy
    under an attack has an asterisk where the checks of this attack found something in one of the group's runs.
    """
    by_class = any(g.get("worst_class") is not None for g in record.groups)  # not known to records of earlier versions
    rows = [[title, "natural", *["worst class"] * by_class, *map(labels.attack, record.attacks), "seeds"]]
    for g in groups:
        cells = [cell for cell in _measured(record) if cell["name"] in g["cells"]]
        doubted = {attack for cell in cells for attack in _warnings(cell)}
        robust = [
            accuracy(measured) + _fewer_seeds(measured, g) + "*" * (attack in doubted)
            for attack, measured in ((attack, g["robust"].get(attack)) for attack in record.attacks)
        ]
        worst = g.get("worst_class")
        least = ["-" if worst is None else labels.percent(worst)] * by_class
        rows.append([labels.method(g["method"]), accuracy(g["natural"]), *least, *robust, str(len(g["seeds"]))])
    return rows


def _measured(record: Record) -> list[dict[str, Any]]:
    return [cell for cell in record.cells if "figures" in cell]


def _warnings(cell: dict[str, Any]) -> dict[str, list[str]]:
    """What the checks found in a run, by attack; attacks that nothing was found in are left out.

    That there are few images is not among it: it makes no accuracy too high, and the standard errors tell it.
    """
    found = {attack: m.get("warnings", []) for attack, m in cell["figures"]["robust"].items()}
    doubts = {attack: [name for name in names if name != "too_few_samples"] for attack, names in found.items()}
    return {attack: names for attack, names in doubts.items() if names}


def _fewer_seeds(measured: dict[str, Any] | None, group: dict[str, Any]) -> str:
    """Says how many seeds an accuracy is of, where not all of the group's were measured."""
    if measured is None or measured["n"] == len(group["seeds"]):
        return ""
    return f" ({measured['n']} seed{'s' * (measured['n'] > 1)})"


def sizes(record: Record, loss: str) -> Table:
    """A header and a row per method: size of its file at each sparsity, as it is and gzipped."""
    targets = record.targets(loss)
    found = {(g["method"], g["target"]): g for target in targets for g in record.pruned(loss, target)}
    rows = [["file, gzipped", *(f"{labels.sparsity(target)} %" for target in targets)]]
    for g in record.references(loss):
        rows.append([labels.method(g["method"]), *[_size(g)] * len(targets)])
    for method in dict.fromkeys(method for method, _ in found):
        rows.append([labels.method(method), *(_size(found.get((method, target))) for target in targets)])
    return rows


def _size(group: dict[str, Any] | None) -> str:
    known = group is not None and group["file_bytes"] and group["gzip_bytes"]
    return f"{labels.size(group['file_bytes'])}, {labels.size(group['gzip_bytes'])}" if group and known else "-"


def unpruned(record: Record, loss: str) -> str:
    """What the dense model and its control reach, in a sentence; empty if neither is there."""
    parts = []
    for g in record.references(loss):
        found = [attack for attack in record.ranking if attack in g["robust"]]
        under = "".join(f", {labels.attack(attack)} {accuracy(g['robust'][attack])} %" for attack in found)
        more = ", trained on for as many epochs as the others" if g["method"] == CONTROL else ""
        parts.append(f"{labels.method(g['method'])}{more}: natural {accuracy(g['natural'])} %{under}")
    which = f" (loss {loss})" if len(record.losses) > 1 else ""
    return f"Unpruned{which}: {'; '.join(parts)}." if parts else ""


def accuracy(measured: dict[str, Any] | None) -> str:
    """Writes a mean in percent, with the deviation over seeds where there are several: "77.3 ± 0.4"."""
    if measured is None:
        return "-"
    deviation = f" ± {labels.percent(measured['sd'])}" if measured["sd"] is not None else ""
    return labels.percent(measured["mean"]) + deviation


def note(record: Record) -> str:
    """Says what the figures rest on; empty without any."""
    natural = [g["natural"] for g in record.groups]
    if not natural:
        return ""
    robust = [measured for g in record.groups for measured in g["robust"].values()]
    worst = max(100 * m["se"] for m in natural + robust)
    attacked = f", under attack on {_range(robust)}" if robust else ""
    text = f"Accuracies in %, on {_range(natural)} test images{attacked}; standard error up to {worst:.1f} points."
    if any(m["sd"] is not None for m in natural):
        text += " ± is the sample standard deviation over seeds."
    missing = [cell["name"] for cell in record.cells if cell["status"] != "finished"]
    return text + (f" Not finished: {', '.join(missing)}." if missing else "")


def of_seeds(record: Record) -> str:
    """Says what the standard errors know of seeds."""
    pruned = [g for g in record.groups if g["target"] is not None]
    several = [g for g in pruned if len(g["seeds"]) > 1]
    if not several:
        return "Every method has one seed, so what other seeds would change is not in it."
    if len(several) == len(pruned):
        return "Every method has several seeds."
    return (
        "Where a method has one seed, the deviation of those with several at the same sparsity stands in for its own; "
        "where none has several there, that at the other sparsities."
    )


def checks(record: Record) -> str:
    """Says what the checks of the attacks found in which runs; empty if nothing."""
    cells = _measured(record)
    found: dict[str, list[str]] = {}
    for cell in cells:
        for check in sorted({check for checks in _warnings(cell).values() for check in checks}):
            found.setdefault(check, []).append(cell["name"])
    parts = [f"{check} in {'all' if len(n) == len(cells) else ', '.join(n)}" for check, n in found.items()]
    text = "* The checks of the attacks warn, so these accuracies may be too high, see the reports of the runs"
    return f"{text}: {'; '.join(parts)}." if parts else ""


def unlike(record: Record) -> str:
    """Says which runs an attack was run on with other settings than on the others; empty if none."""
    parts = []
    for attack in record.attacks:
        runs: dict[str, list[str]] = {}
        for cell in _measured(record):
            if settings := cell["figures"]["robust"].get(attack, {}).get("settings"):
                runs.setdefault(json.dumps(settings, sort_keys=True), []).append(cell["name"])
        usual = max(runs.values(), key=len, default=[])
        if others := [name for names in runs.values() if names is not usual for name in names]:
            parts.append(f"{labels.attack(attack)} in {', '.join(others)}")
    if not parts:
        return ""
    text = "WARNING: an attack had other settings than in the other runs, so figures cannot be compared"
    return f"{text}: {'; '.join(parts)}."


def costs(record: Record, loss: str) -> Table:
    """A header and a row per method: epochs of each stage, gradient passes and seconds, their mean over sparsities."""
    groups = record.references(loss) + [g for target in record.targets(loss) for g in record.pruned(loss, target)]
    stages = list(dict.fromkeys(stage for g in groups for stage in g["epochs"]))
    seconds: dict[tuple[str, ...], list[float]] = {}  # one row where the rest is the same at every sparsity
    for g in groups:
        epochs = [str(g["epochs"].get(stage, "-")) for stage in stages]
        row = (labels.method(g["method"]), *epochs, f"{sum(g['passes'].values()):,}")
        seconds.setdefault(row, []).append(sum(g["seconds"].values()))
    header = ["method", *(f"{stage}, epochs" for stage in stages), "gradient passes", "training, s"]
    return [header, *([*row, f"{statistics.fmean(found):,.0f}"] for row, found in seconds.items())]


def equal_costs(record: Record, loss: str) -> str:
    """Says whether all that started from the dense model was trained for the same budget."""
    groups = [g for g in record.groups if g["loss"] == loss and g["method"] != "dense"]
    budgets: dict[tuple[int, int], list[str]] = {}
    for g in groups:
        own = [{stage: n for stage, n in g[key].items() if stage != "dense"} for key in ("epochs", "passes")]
        budgets.setdefault((sum(own[0].values()), sum(own[1].values())), []).append(labels.method(g["method"]))
    texts = {key: f"{key[0]} epochs and {key[1]:,} gradient passes over a batch" for key in budgets}
    if len(budgets) == 1:
        return f"All models got the same budget after the dense model they start from: {texts[next(iter(budgets))]}."
    parts = [f"{', '.join(dict.fromkeys(names))}: {texts[key]}" for key, names in budgets.items()]
    return f"The budgets after the dense model differ. {'; '.join(parts)}." if parts else ""


def _range(measured: list[dict[str, Any]]) -> str:
    counts = sorted({m["images"] for m in measured})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
