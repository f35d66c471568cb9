"""One self-contained HTML page per run: the verdict first, then what it rests on."""

import base64
import json
import os
import re
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from harp_tf.report import labels, plots, table, theme
from harp_tf.report.run import Run, read_run
from harp_tf.report.warnings import found as found_warnings

CAPTIONS = {
    "results": "Accuracy on the test set, natural and under attack.",
    "sizes": "Size of the files, as they are and gzipped.",
    "security_curve": "Robust accuracy over the radius of the attack; it must fall to 0, or the attack is too weak.",
    "accuracy": "Accuracy over the epochs of each stage; the model was chosen on the validation data.",
    "loss": "Training loss over the epochs of each stage. While pruning, it includes the size penalty.",
    "strategy_weights": "What the learned strategy keeps of each layer, from the first layer to the last.",
    "strategy_rates": "The same as a share of each layer, beside the target of the whole network.",
    "layer_rates": "How the rate of each layer moved while pruning.",
    "compression": "The network's rate comes down to the target while γ raises the price of the rest.",
}
ARTEFACTS = {
    "dense.keras": "the dense model, plain Keras",
    "pruned.keras": "the pruned model, plain Keras",
    "model.tflite": "the dense model for the phone",
    "model_sparse.tflite": "the pruned model for the phone",
    "rates.json": "the strategy, to be fed back in",
    "rates_channel.json": "the strategy of the channels, which were removed first",
    "metrics.jsonl": "every epoch's metrics",
    "results.json": "the numbers of this page",
}


def write_report(run_dir: str | Path) -> Path:
    """Writes `run_dir`/report.html, which needs no other file and no network.

    Args:
        run_dir: folder that `harp_tf.train` wrote; what a run has not reached yet is left out of the page.

    Returns:
        The page, written whole or not at all.

    Raises:
        HarpError: there is no such folder, or a file of it is not what it should be.
    """
    run = read_run(run_dir)
    target = run.path / "report.html"
    page = _page(run)
    handle, temporary = tempfile.mkstemp(dir=run.path, prefix=".report", suffix=".html")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(temporary, 0o644)  # mkstemp makes it readable for its owner only.
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


def _page(run: Run) -> str:
    drawn = {name: theme.inline_svg(figure, name) for name, figure in plots.figures(run).items()}
    title = escape(run.path.resolve().name)
    sections = [
        _section("Results", _results(run), _figures(drawn, "results", "sizes")),
        _section("Attacks", _warnings(run), _stages(run), _figures(drawn, "security_curve")),
        _section("Training", _figures(drawn, "accuracy", "loss")),
        _section("Strategy", _strategy(run), _figures(drawn, "strategy_weights", "strategy_rates")),
        _section("Pruning", _figures(drawn, "compression", "layer_rates")),
        _section("Adversarial examples", _examples(run)),
        _section("Files", _files(run)),
        _section("Flags and versions", _config(run.config)),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · HARP</title>
<style>{_stylesheet()}</style>
</head>
<body>
<main>
<header>
<p class="kicker">HARP run <b>{title}</b></p>
{_verdict(run)}
</header>
{"".join(sections)}
</main>
</body>
</html>
"""


def _verdict(run: Run) -> str:
    sentence = _typeset(table.verdict(run.results))
    if not sentence:
        done = ", ".join(run.stages) or "none"
        return f"<h1>Not finished yet</h1><p>Stages with finished epochs: {escape(done)}.</p>"
    dense, pruned = run.results["dense"], run.results["pruned"]
    cards = [(f"{labels.sparsity(pruned.get('sparsity', 0))} %", "of the weights removed", "")]
    pairs = {"natural": (dense.get("natural_accuracy"), pruned.get("natural_accuracy"))}
    for name in table.attacks({"pruned": pruned}):
        pairs[labels.attack(name)] = tuple(r.get("robust_accuracy", {}).get(name) for r in (dense, pruned))
    for name, (before, after) in list(pairs.items())[:3]:
        if before is not None and after is not None:
            change = _typeset(table.points(before, after))
            cards.append((f"{labels.percent(after)} %", f"{name} accuracy", f"{change} points to dense"))
    before, after = (run.results.get(name, {}).get("file_bytes") for name in ("tflite", "tflite_sparse"))
    if before and after:
        cards.append((labels.size(after), "file", f"{_typeset(table.times(before / after))} smaller"))
    boxes = "".join(
        f"<li><strong>{escape(number)}</strong><span>{escape(what)}</span><em>{note}</em></li>"
        for number, what, note in cards
    )
    return f'<h1>{sentence}</h1><ul class="cards">{boxes}</ul>'


def _results(run: Run) -> str:
    if not run.results:
        return ""
    tables = _table(table.accuracy_columns(run.results)) + _table(table.size_columns(run.results))
    note = table.test_images(run.results)
    return f'<div class="pair">{tables}</div>' + (f"<p>{escape(note)}</p>" if note else "")


def _warnings(run: Run) -> str:
    if not any(result.get("attacks") for result in run.results.values()):
        return ""
    items = "".join(
        f"<li><strong>{escape(check)}</strong> {escape(what)}. {_typeset(text)}</li>"
        for what, check, text in found_warnings(run.results)
    )
    return f'<ul class="warnings">{items}</ul>' if items else "<p>The checks of the attacks found nothing.</p>"


def _stages(run: Run) -> str:
    """Accuracy after each part of a cascade, one table per attack that has parts."""
    tables = ""
    for attack in table.attacks(run.results):
        entries = {model: r.get("attacks", {}).get(attack, [{}])[-1] for model, r in run.results.items()}
        entries = {model: entry for model, entry in entries.items() if entry.get("stages")}
        if entries:
            parts = list(dict.fromkeys(part for entry in entries.values() for part in entry["stages"]))
            radii = sorted({f"{entry['eps']:.3g}" for entry in entries.values()})
            rows = [[f"{labels.attack(attack)}, eps {' and '.join(radii)}, after", *map(labels.attack, parts)]]
            for model, entry in entries.items():
                shares = [entry["stages"].get(part) for part in parts]
                rows.append([labels.model(model), *("-" if s is None else labels.percent(s) for s in shares)])
            tables += _table(rows)
    return tables


def _strategy(run: Run) -> str:
    rates = run.rates
    if not rates:
        return ""
    weights, kept, budget = (rates.get(key) for key in ("weights", "kept", "budget"))
    text = []
    if None not in (weights, kept, budget):
        text.append(f"{kept:,} of {weights:,} weights are kept")
        if rates.get("budget_counts") == "flops":
            text[0] += (
                f", and {rates['cost_kept']:,} of {rates['cost']:,} multiply-adds; of these, at most {budget:,} may be."
            )
        else:
            text[0] += f"; the budget is {budget:,}."
    if "target_sparsity" in rates:
        text.append(f"Target: {labels.sparsity(rates['target_sparsity'])} % sparsity.")
    if "strategy" in rates:
        text.append(f"The rates started from “{rates['strategy']}”.")
    if "granularity" in rates:
        text.append(f"Pruned by {rates['granularity']}.")
    if rates.get("projected"):
        text.append("The learned rates ended above the target and were projected onto the budget.")
    return f"<p>{escape(' '.join(text))}</p>" if text else ""


def _examples(run: Run) -> str:
    path = run.path / "plots" / "adversarial_examples.png"
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = "Images, what the attack made of them, and what the model says."
    return (
        f'<figure class="wide"><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _files(run: Run) -> str:
    rows = [
        [name, labels.size((run.path / name).stat().st_size), what]
        for name, what in ARTEFACTS.items()
        if (run.path / name).is_file()
    ]
    return f'<div class="files">{_table([["file", "size", "what it is"], *rows])}</div>' if rows else ""


def _config(config: dict[str, Any]) -> str:
    groups = {name: value for name, value in config.items() if isinstance(value, dict)}
    single = {name: value for name, value in config.items() if not isinstance(value, dict)}
    if single:
        groups = {"run": single, **groups}
    parts = []
    for name, values in groups.items():
        rows = ""
        for key, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows += f'<tr><th scope="row">{escape(key)}</th><td>{escape(text)}</td></tr>'
        parts.append(
            f"<details><summary>{escape(name)} ({len(values)})</summary>"
            f'<div class="scroll"><table class="pairs">{rows}</table></div></details>'
        )
    return "".join(parts)


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>\n" if any(parts) else ""


def _figures(drawn: dict[str, str], *names: str) -> str:
    figures = "".join(
        f'<figure role="img" aria-label="{escape(CAPTIONS[name])}">{drawn[name]}'
        f"<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"
        for name in names
        if name in drawn
    )
    return f'<div class="pair">{figures}</div>' if figures else ""


def _table(rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = ""
    for name, *cells in rows[1:]:
        data = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{escape(name)}</th>{data}</tr>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _typeset(text: str) -> str:
    """Escapes plain text of the terminal, gives it arrows, minus and times signs, and breaks no number."""
    signs = {
        "->": "→",
        r"(?<=\d)x\b": "×",
        r"(?<!\w)-(?=\d)": "−",
        r"(?<=\w)-(?=\w)": "\u2011",  # non-breaking
        r"(?<=\d) (?=[%kMG])": "\u00a0",
    }
    for pattern, sign in signs.items():
        text = re.sub(pattern, sign, text)
    return escape(text)


def _stylesheet() -> str:
    light = "".join(f"--{role}: {colour}; " for role, colour in theme.LIGHT.items())
    dark = "".join(f"--{role}: {colour}; " for role, colour in theme.DARK.items())
    return f":root {{ {light}}} @media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}{STYLESHEET}"


STYLESHEET = """
:root { --page: #f5f7f9; --card: #fff; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page: #101317; --card: #191d22; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
.kicker { margin: 0; color: var(--muted); }
h1 { margin: 8px 0 24px; font-size: clamp(1.15rem, 0.95rem + 1.1vw, 1.6rem); line-height: 1.35;
  font-weight: 650; text-wrap: pretty; }
h2 { margin: 40px 0 12px; font-size: 1.15rem; }
p { max-width: 75ch; color: var(--muted); text-wrap: pretty; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0;
  padding: 0; list-style: none; }
.cards li, figure, .scroll, details { background: var(--card); border: 1px solid var(--grid);
  border-radius: 10px; }
.cards li { display: flex; flex-direction: column; padding: 14px 16px; }
.cards strong { font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.cards span, .cards em { color: var(--muted); font-size: 0.875rem; font-style: normal; }
.warnings { margin: 0; padding: 0; list-style: none; display: grid; gap: 10px; }
.warnings li { border-left: 3px solid var(--orange); padding: 2px 0 2px 12px; max-width: 90ch; color: var(--muted); }
.warnings strong { color: var(--ink); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px;
  align-items: start; margin-top: 16px; }
.pair > * { min-width: 0; }
figure { margin: 0; padding: 14px 14px 10px; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figure.wide img { max-width: 900px; margin: 0 auto; background: #fff; border-radius: 6px; }
figcaption { margin-top: 8px; color: var(--muted); font-size: 0.875rem; }
.scroll { overflow-x: auto; background:  /* a shadow where there is more to scroll to */
  linear-gradient(90deg, var(--card) 60%, transparent) left / 40px 100% no-repeat local,
  linear-gradient(270deg, var(--card) 60%, transparent) right / 40px 100% no-repeat local,
  linear-gradient(90deg, var(--soft), transparent) left / 12px 100% no-repeat,
  linear-gradient(270deg, var(--soft), transparent) right / 12px 100% no-repeat, var(--card); }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 14px; text-align: right; white-space: nowrap; }
thead th { color: var(--muted); font-size: 0.875rem; font-weight: 500; }
tbody tr, .pairs tr + tr { border-top: 1px solid var(--grid); }
th:first-child { text-align: left; }
tbody th { font-weight: 600; }
.files td:last-child, .files th:last-child { text-align: left; width: 100%; white-space: normal; }
details { margin-top: 10px; }
details .scroll { border-width: 1px 0 0; border-radius: 0 0 10px 10px; }
summary { padding: 10px 14px; cursor: pointer; font-weight: 600; }
.pairs td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.pairs th { width: 1%; padding-right: 24px; font-weight: 500; }
@media (max-width: 520px) { main { padding: 20px 12px 48px; } figure { padding: 8px 8px 10px; }
  table { font-size: 0.8125rem; } th, td { padding: 8px 5px; }
  th:first-child { padding-left: 10px; } td:last-child, th:last-child { padding-right: 10px; } }
"""
