"""One self-contained HTML page per comparison: who is ahead first, then what it rests on."""

from html import escape
from pathlib import Path

from harp_tf.report import html, labels
from harp_tf.report.comparison import plots, table
from harp_tf.report.comparison.layers import what_harp_keeps
from harp_tf.report.comparison.read import Record, read_comparison
from harp_tf.report.comparison.standing import difference, headline, standings


def write_comparison(directory: str | Path) -> Path:
    """Writes comparison.html, which needs no other file and no network, and its pictures into plots/.

    Args:
        directory: that of a comparison.

    Returns:
        The page, written whole or not at all.

    Raises:
        HarpError: if there is no record of a comparison.
    """
    record = read_comparison(directory)
    return html.write(_page(record), record.path / "comparison.html")


def _page(record: Record) -> str:
    figures, captions = plots.figures(record)
    svgs = html.draw(figures, record.path / "plots")

    def shown(kind: str) -> str:
        return html.figures(svgs, captions, *(name for name in svgs if name.startswith(kind)))

    sections = [
        html.section("Accuracy, sparsity, robustness", shown("curve_"), shown("standing_")),
        html.section("All figures", *_figures(record)),
        html.section("Against the best", *_differences(record)),
        html.section("Per-layer strategy", *_strategies(record), shown("layers_")),
        html.section("Budgets", *_budgets(record)),
        html.section("Size of the files", *_sizes(record)),
        html.section("Runs", _cells(record)),
        html.section("Flags and versions", html.settings(record.config)),
    ]
    title = record.path.resolve().name
    kicker = f'<p class="kicker">HARP comparison <b>{escape(title)}</b></p>'
    return html.document(title, kicker + _verdict(record), sections)


def _verdict(record: Record) -> str:
    text = headline(record) or "Not finished yet"
    boxes = ""
    for loss in record.losses:
        for target in record.targets(loss):
            title = f"{labels.sparsity(target)} % sparsity" + (f", {loss}" if len(record.losses) > 1 else "")
            items = "".join(f"<p>{html.typeset(s.sentence())}</p>" for s in standings(record, loss, target))
            boxes += f"<li><span>{html.typeset(title)}</span>{items}</li>"
    dense = "".join(f"<p>{html.typeset(table.unpruned(record, loss))}</p>" for loss in record.losses)
    failed = [cell for cell in record.cells if cell["status"] == "failed"]
    warning = "".join(
        f"<li><strong>failed</strong> {escape(cell['name'])}: {escape(cell.get('message', ''))}</li>" for cell in failed
    )
    waiting = sum(cell["status"] == "waiting" for cell in record.cells)
    note = f"<p>{waiting} of {len(record.cells)} runs are still to be made.</p>" if waiting else ""
    return (
        f"<h1>{html.typeset(text)}</h1>{dense}"
        + (f'<ul class="cards wide">{boxes}</ul>' if boxes else "")
        + note
        + (f'<ul class="warnings">{warning}</ul>' if warning else "")
    )


def _named(record: Record, loss: str) -> str:
    return f"<h3>Training loss: {escape(loss)}</h3>" if len(record.losses) > 1 else ""


def _figures(record: Record) -> list[str]:
    parts = []
    for loss in record.losses:
        groups = {f"{labels.sparsity(t)} % sparsity": record.pruned(loss, t) for t in record.targets(loss)}
        groups["unpruned"] = record.references(loss)
        tables = [html.table(table.accuracies(record, found, title)) for title, found in groups.items() if found]
        parts.append(_named(record, loss) + "".join(tables))  # too wide to stand side by side
    notes = [
        f"<p>{escape(text)}</p>" for text in (table.note(record), table.checks(record), table.unlike(record)) if text
    ]
    return [*parts, *notes] if parts else []


def _differences(record: Record) -> list[str]:
    """By sparsity, how far each method is behind the best, in points and in standard errors."""
    parts = []
    for loss in record.losses:
        for target in record.targets(loss):
            found = standings(record, loss, target)
            groups = record.pruned(loss, target)
            if len(groups) < 2:
                continue
            rows = [[f"{labels.sparsity(target)} % sparsity", *(s.what for s in found)]]
            for group in groups:
                cells = []
                for s in found:
                    mine = s.values[group["method"]]
                    if mine is None:
                        cells.append("-")
                    elif group is s.leader:
                        cells.append(f"best, {labels.percent(mine['mean'])}")
                    else:
                        gap, error = difference(mine, s.values[s.leader["method"]])
                        errors = f"{abs(gap) / error:.1f}" if error else "-"
                        cells.append(f"{100 * gap:+.1f} ({errors} se)".replace("-", "−"))
                rows.append([labels.method(group["method"]), *cells])
            parts.append(html.table(rows))
    if not parts:
        return []
    text = (
        "Points to the best method and, in brackets, how many standard errors (se) of the difference that is; two are "
        "called clear. The error is that of the test images (of those that only one of the two got right, where the "
        f"record says which) and of the seeds. {table.of_seeds(record)}"
    )
    return [f"<p>{text}</p>", _pairs(parts)]


def _strategies(record: Record) -> list[str]:
    parts = []
    for loss in record.losses:
        for target in record.targets(loss):
            text = what_harp_keeps(record.pruned(loss, target))
            if text:
                where = f"{labels.sparsity(target)} %" + (f", {loss}" if len(record.losses) > 1 else "")
                parts.append(f"<p><strong>{html.typeset(where)}</strong> {html.typeset(text)}</p>")
    return parts


def _budgets(record: Record) -> list[str]:
    parts = []
    for loss in record.losses:
        parts.append(_named(record, loss) + f"<p>{html.typeset(table.equal_costs(record, loss))}</p>")
        parts.append(html.table(table.costs(record, loss)))
    return parts


def _sizes(record: Record) -> list[str]:
    return [_named(record, loss) + html.table(table.sizes(record, loss)) for loss in record.losses]


def _cells(record: Record) -> str:
    rows = [["run", "status"], *([cell["name"], cell["status"]] for cell in record.cells)]
    commands = html.foldable("commands", {cell["name"]: cell["command"] for cell in record.cells})
    pages = {
        cell["name"]: f"cells/{cell['name']}/report.html"
        for cell in record.cells
        if (record.path / "cells" / cell["name"] / "report.html").is_file()
    }
    return html.table(rows, link=pages.get) + commands if record.cells else ""


def _pairs(parts: list[str]) -> str:
    return f'<div class="tables">{"".join(parts)}</div>'
