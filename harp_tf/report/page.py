"""One self-contained HTML page per run: the verdict first, then what it rests on."""

import base64
from html import escape
from pathlib import Path
from typing import Any

from harp_tf.report import html, labels, plots, table
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
    "latency": "Time of one image through each file, timed in turn; the line spans the 10th to the 90th percentile.",
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
    """Writes `run_dir`/report.html, which needs no other file and no network, and its pictures into `run_dir`/plots.

    Args:
        run_dir: folder that `harp_tf.train` wrote; what a run has not reached yet is left out of the page.

    Returns:
        The page, written whole or not at all.

    Raises:
        HarpError: there is no such folder, or a file of it is not what it should be.
    """
    run = read_run(run_dir)
    return html.write(_page(run), run.path / "report.html")


def _page(run: Run) -> str:
    title = run.path.resolve().name
    drawn = html.draw(plots.figures(run), run.path / "plots")

    def shown(*names: str) -> str:
        return html.figures(drawn, CAPTIONS, *names)

    sections = [
        html.section("Results", _results(run), shown("results", "sizes")),
        html.section("Attacks", _warnings(run), _stages(run), shown("security_curve")),
        html.section("Adversarial examples", _examples(run)),
        html.section("Strategy", _strategy(run), shown("strategy_weights", "strategy_rates")),
        html.section("Pruning", shown("compression", "layer_rates")),
        html.section("Training", shown("accuracy", "loss")),
        html.section("Latency", _latency(run), shown("latency")),
        html.section("Files", _files(run)),
        html.section("Flags and versions", html.settings(run.config)),
    ]
    return html.document(title, f'<p class="kicker">HARP run <b>{escape(title)}</b></p>{_verdict(run)}', sections)


def _verdict(run: Run) -> str:
    sentence = table.verdict(run.results)
    if not sentence:
        done = ", ".join(run.stages) or "none"
        return f"<h1>Not finished yet</h1><p>Stages with finished epochs: {escape(done)}.</p>"
    model = run.results.get("pruned") or run.results["dense"]
    dense = run.results.get("dense", {}) if "pruned" in run.results else {}
    cards = [(f"{labels.sparsity(model['sparsity'])} %", "of the weights removed", "")] if model.get("sparsity") else []
    pairs = {"natural": (dense.get("natural_accuracy"), model.get("natural_accuracy"))}
    for name in table.attacks({"model": model}):
        pairs[labels.attack(name)] = tuple(r.get("robust_accuracy", {}).get(name) for r in (dense, model))
    for name, (before, after) in list(pairs.items())[:3]:
        if after is not None:
            change = f"{table.points(before, after)} points to dense" if before is not None else ""
            cards.append((f"{labels.percent(after)} %", f"{name} accuracy", change))
    before, after = (run.results.get(name, {}).get("file_bytes") for name in ("tflite", "tflite_sparse"))
    if after or before:
        cards.append((labels.size(after or before), "file", _shrinks(before, after)))
    return f"<h1>{html.typeset(sentence)}</h1>{html.cards(cards)}"


def _shrinks(before: int | None, after: int | None) -> str:
    return f"{table.times(before / after)} smaller" if before and after else ""


def _results(run: Run) -> str:
    if not run.results:
        return ""
    tables = html.table(table.accuracy_columns(run.results)) + html.table(table.size_columns(run.results))
    note = table.test_images(run.results)
    return f'<div class="tables">{tables}</div>' + (f"<p>{escape(note)}</p>" if note else "")


def _warnings(run: Run) -> str:
    if not any(result.get("attacks") for result in run.results.values()):
        return ""
    items = "".join(
        f"<li><strong>{escape(check)}</strong> {escape(what)}. {html.typeset(text)}</li>"
        for what, check, text in found_warnings(run.results)
    )
    return f'<ul class="warnings">{items}</ul>' if items else "<p>The checks of the attacks found nothing.</p>"


def _stages(run: Run) -> str:
    """Accuracy after each part of a cascade, one table per attack that has parts."""
    tables = ""
    for attack in table.attacks(run.results):
        entries = {model: _headline(run, r.get("attacks", {}).get(attack, [{}])) for model, r in run.results.items()}
        entries = {model: entry for model, entry in entries.items() if entry.get("stages")}
        if entries:
            parts = list(dict.fromkeys(part for entry in entries.values() for part in entry["stages"]))
            radii = sorted({f"{entry['eps']:.3g}" for entry in entries.values()})
            rows = [[f"{labels.attack(attack)}, eps {' and '.join(radii)}, after", *map(labels.attack, parts)]]
            for model, entry in entries.items():
                shares = [entry["stages"].get(part) for part in parts]
                rows.append([labels.model(model), *("-" if s is None else labels.percent(s) for s in shares)])
            tables += html.table(rows)
    return tables


def _headline(run: Run, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The measurement that the tables show, at the run's own threat model if there is one."""
    flags = run.config.get("flags", {})
    own = [e for e in entries if (e.get("norm"), e.get("eps")) == (flags.get("norm"), flags.get("eps"))]
    return max(reversed(own or entries), key=lambda entry: entry.get("n", 0))


def _strategy(run: Run) -> str:
    rates = run.rates
    if not rates:
        return ""
    weights, kept, budget = (rates.get(key) for key in ("weights", "kept", "budget"))
    text = []
    if weights is not None and kept is not None and budget is not None:
        text += _channels_first(run, weights)
        text.append(f"{kept:,} of {weights:,} weights are kept")
        if rates.get("budget_counts") == "flops":
            text[-1] += (
                f", and {rates['cost_kept']:,} of {rates['cost']:,} multiply-adds; of these, at most {budget:,} may be."
            )
        else:
            text[-1] += f"; the budget is {budget:,}."
        text += _shipped(run, kept)
    if "target_sparsity" in rates:
        text.append(f"Target: {labels.sparsity(rates['target_sparsity'])} % sparsity{_of_what(run)}.")
    if "strategy" in rates:
        text.append(f"The rates started from “{rates['strategy']}”.")
    if "granularity" in rates:
        text.append(f"Pruned by {rates['granularity']}.")
    if rates.get("projected"):
        text.append("The learned rates ended above the target and were projected onto the budget.")
    return f"<p>{escape(' '.join(text))}</p>" if text else ""


def _channels_first(run: Run, left: int) -> list[str]:
    """What channels took before single weights went, in the weights of the model that the headline speaks of."""
    total = run.results.get("dense", {}).get("parameters")
    if not total or left >= total or run.config.get("flags", {}).get("granularity") != "channel,weight":
        return []
    return [f"First channels went, and left {left:,} of the {total:,} weights. Of what they left,"]


def _shipped(run: Run, kept: int) -> list[str]:
    """What is left of the kept weights once channels that do nothing any more are gone too."""
    nonzero, total = run.results.get("pruned", {}).get("nonzero"), run.results.get("dense", {}).get("parameters")
    if nonzero is None or nonzero == kept or not total:
        return []
    share = labels.sparsity(1 - nonzero / total)
    gone = f"{share} % of the dense model's {total:,} are gone"
    return [f"The model that ships has {nonzero:,} weights other than 0: {gone}."]


def _of_what(run: Run) -> str:
    flags = run.config.get("flags", {})
    if flags.get("granularity") != "channel,weight" or "target_sparsity" not in flags:
        return ""
    return f" of what the channels left, {labels.sparsity(flags['target_sparsity'])} % of the dense model"


def _latency(run: Run) -> str:
    """Milliseconds of one image, where the files were timed."""
    if not run.latency:
        return ""
    rows = [["file", "threads", "median, ms", "10 % to 90 %, ms", "to the first file"]]
    for row in run.latency:
        ratio = f"{row['ratio']:.2f}x" if row.get("ratio") is not None else "-"
        spread = f"{row['p10_ms']:.3f} to {row['p90_ms']:.3f}"
        rows.append([row["name"], str(row["threads"]), f"{row['median_ms']:.3f}", spread, ratio])
    return html.table(rows)


def _examples(run: Run) -> str:
    path = run.path / "plots" / "adversarial_examples.png"
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = "Images, what the attack made of them, and what the model says."
    return (
        f'<figure class="wide"><div class="scroll" tabindex="0"><img src="data:image/png;base64,{data}" '
        f'alt="{caption}"></div><figcaption>{caption}</figcaption></figure>'
    )


def _files(run: Run) -> str:
    rows = [
        [name, labels.size((run.path / name).stat().st_size), what]
        for name, what in ARTEFACTS.items()
        if (run.path / name).is_file()
    ]
    return html.table([["file", "size", "what it is"], *rows], kind="files") if rows else ""
