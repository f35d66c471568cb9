"""The closing table of a run and its verdict, as plain text."""

import textwrap
from typing import Any

from harp_tf.report import labels

WIDTH = 100

Table = list[list[str]]


def results_table(results: dict[str, dict[str, Any]]) -> str:
    """Writes the results of a run as a table for a terminal, at most 100 columns wide, and the verdict below.

    Args:
        results: results.json: by model ("dense", "pruned", "tflite", "tflite_sparse") its "natural_accuracy",
            "balanced_accuracy" and "robust_accuracy" (by attack) in [0, 1], "sparsity" in [0, 1], "nonzero"
            weights, "file_bytes", "gzip_bytes", "n_test" and "n_robust" images. What is missing shows as "-".

    Returns:
        Lines joined by newlines, without one at the end.
    """
    rows = accuracy_columns(results)
    sizes = size_columns(results)
    whole = [left + right[1:] for left, right in zip(rows, sizes)]
    tables = [whole] if len(align(whole).splitlines()[0]) <= WIDTH else [rows, sizes]
    sentences = [textwrap.fill(text, WIDTH) for text in (test_images(results), verdict(results)) if text]
    return "\n\n".join([*map(align, tables), "\n".join(sentences)])


def accuracy_columns(results: dict[str, dict[str, Any]]) -> Table:
    """Returns a header and a row per model: natural, balanced if it differs, every attack, in percent."""
    columns = {"natural": [r.get("natural_accuracy") for r in results.values()]}
    balanced = [r.get("balanced_accuracy") for r in results.values()]
    pairs = [(n, b) for n, b in zip(columns["natural"], balanced) if n is not None and b is not None]
    if any(labels.percent(n) != labels.percent(b) for n, b in pairs):
        columns["balanced"] = balanced
    for name in attacks(results):
        columns[labels.attack(name)] = [r.get("robust_accuracy", {}).get(name) for r in results.values()]
    return _table(results, columns, labels.percent)


def size_columns(results: dict[str, dict[str, Any]]) -> Table:
    """Returns a header and a row per model: sparsity in percent, non-zero weights, bytes raw and gzipped."""
    kinds = {
        "sparsity": ("sparsity", lambda share: f"{labels.sparsity(share)} %"),
        "non-zero": ("nonzero", lambda count: f"{count:,}"),
        "file": ("file_bytes", labels.size),
        "gzip": ("gzip_bytes", labels.size),
    }
    table = [["model", *kinds]]
    for name, result in results.items():
        cells = [write(result[key]) if result.get(key) is not None else "-" for key, write in kinds.values()]
        table.append([labels.model(name), *cells])
    return table


def attacks(results: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the names of all attacks in `results`, each once, in the order they come."""
    return list(dict.fromkeys(name for r in results.values() for name in r.get("robust_accuracy", {})))


def test_images(results: dict[str, dict[str, Any]]) -> str:
    """Says on how many images the accuracies were measured, and so how sure they are; empty if unknown."""
    natural, robust = _counts(results, "n_test"), _counts(results, "n_robust")
    if not natural:
        return ""
    under_attack = f", under attack on {robust}" if robust not in ("", natural) else ""
    errors = [_standard_error(r.get("natural_accuracy"), r.get("n_test")) for r in results.values()]
    for r in results.values():
        errors += [_standard_error(s, r.get("n_robust")) for s in r.get("robust_accuracy", {}).values()]
    error = f"standard error up to {max(errors):.1f} points"
    return f"Accuracies in %, on {natural} test images{under_attack}; {error}."


def verdict(results: dict[str, dict[str, Any]]) -> str:
    """Says in one sentence what pruning cost and brought, or what the only model reaches; empty without any.

    Args:
        results: as for `results_table`.

    Returns:
        For example "99.0 % of the weights removed: natural 97.1 -> 96.0 (-1.1 points), PGD-20 90.2 -> 89.0
        (-1.2); the file shrinks 42x, from 1.0 MB to 24 kB.", in one line.
    """
    pruned = results.get("pruned")
    model = pruned or results.get("dense")
    if not model:
        return ""
    dense = results.get("dense", {}) if pruned else {}
    shares = {"natural": [r.get("natural_accuracy") for r in (dense, model)]}
    for name in attacks({"dense": dense, "model": model}):
        shares[labels.attack(name)] = [r.get("robust_accuracy", {}).get(name) for r in (dense, model)]
    if dense:
        changes = [_change(name, before, after) for name, (before, after) in shares.items()]
    else:
        changes = [f"{name} {labels.percent(after)}" for name, (_, after) in shares.items() if after is not None]
    text = f"{labels.sparsity(pruned.get('sparsity', 0))} % of the weights removed" if pruned else "Dense model"
    if any(changes):
        text += ": " + ", ".join(change for change in changes if change).replace(")", " points)", 1)
    before, after = (results.get(name, {}).get("file_bytes") for name in ("tflite", "tflite_sparse"))
    if before and after:
        change = f"shrinks {times(before / after)}" if after < before else "does not shrink"
        text += f"; the file {change}, from {labels.size(before)} to {labels.size(after)}"
    elif not dense and (size := after or before):
        text += f"; the file has {labels.size(size)}"
    return text + "."


def times(ratio: float) -> str:
    """Writes a factor with two digits or more: 3.14159 → "3.1x", 42.4 → "42x"."""
    return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:.0f}x"


def points(before: float, after: float) -> str:
    """Writes the change of an accuracy in points, as rounded percentages show it: (0.971, 0.96) → "-1.1"."""
    change = round(float(labels.percent(after)) - float(labels.percent(before)), 1)
    return f"{change:+.1f}" if change else "0.0"


def _change(name: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    return f"{name} {labels.percent(before)} -> {labels.percent(after)} ({points(before, after)})"


def _standard_error(share: float | None, count: int | None) -> float:
    """Returns the standard error, in points, of a share measured on `count` images; 0 if there is none."""
    return 100 * (share * (1 - share) / count) ** 0.5 if share and count else 0.0


def _counts(results: dict[str, dict[str, Any]], key: str) -> str:
    counts = sorted({r[key] for r in results.values() if r.get(key)})
    return " to ".join(f"{count:,}" for count in (counts[:1] + counts[-1:] if len(counts) > 1 else counts))


def _table(results: dict[str, Any], columns: dict[str, list], write) -> Table:
    header = ["model", *columns]
    written = [[write(v) if v is not None else "-" for v in values] for values in columns.values()]
    return [header, *([labels.model(name), *cells] for name, *cells in zip(results, *written))]


def align(table: Table) -> str:
    """Lays out a table for a terminal: the first column flush left, the others flush right, a line below the header."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for name, *cells in table:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
