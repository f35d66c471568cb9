import json

import numpy as np
import pytest
from matplotlib.image import imread

from harp_tf.report import plots, theme, write_report
from harp_tf.report.run import read_run

ALL = [
    "results",
    "sizes",
    "accuracy",
    "loss",
    "strategy_weights",
    "strategy_rates",
    "layer_rates",
    "compression",
]


def test_a_finished_run_gives_every_picture_as_png_and_svg(run_dir):
    written = sorted((write_report(run_dir).parent / "plots").iterdir())
    assert [path.name for path in written] == sorted(f"{name}.{kind}" for name in ALL for kind in ("png", "svg"))
    for path in written:
        if path.suffix == ".png":
            pixels = imread(path)
            assert pixels.shape[1] == 968 and np.allclose(pixels[0, 0, :3], 1)  # white ground
            assert pixels.std() > 0.05  # and something drawn on it
        else:
            assert path.read_text().rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (["results.json"], [name for name in ALL if name not in ("results", "sizes")]),
        (["metrics.jsonl"], ["results", "sizes", "strategy_weights", "strategy_rates"]),
        (["results.json", "rates.json", "metrics.jsonl"], []),
    ],
)
def test_what_a_run_lacks_is_left_out(run_dir, missing, expected):
    for name in missing:
        (run_dir / name).unlink()
    assert list(plots.figures(read_run(run_dir))) == expected


def test_a_run_that_only_trained_naturally(run_dir):
    rows = [{"stage": "pretrain", "epoch": 0, "logs": {"loss": 0.7, "natural_accuracy": 0.5}}]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = plots.figures(read_run(run_dir))
    assert "compression" not in figures and "layer_rates" not in figures
    (axes,) = figures["accuracy"].axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 50]]]


def test_curves_are_the_logged_numbers(run_dir, epochs):
    figures = plots.figures(read_run(run_dir))
    pretrain, prune, finetune = figures["accuracy"].axes
    assert [axes.get_title() for axes in (pretrain, prune, finetune)] == ["pretrain", "prune", "finetune"]
    wanted = [100 * row["logs"]["val_adversarial_accuracy"] for row in epochs if row["stage"] == "prune"]
    assert any(np.allclose(line.get_ydata(), wanted) for line in prune.lines)
    assert all(line.get_xdata().tolist() == [1, 2, 3] for line in prune.lines)

    rate, penalty, gamma = figures["compression"].axes
    assert rate.get_yscale() == "log"
    assert rate.lines[0].get_ydata().tolist() == [0.1, 0.05, 0.025]
    assert np.allclose(rate.lines[1].get_ydata(), 0.03)  # the target
    assert penalty.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert gamma.lines[0].get_ydata().tolist() == [0.01, 0.02, 0.03]


def test_bars_are_the_counts_and_rates_of_each_layer(run_dir):
    figures = plots.figures(read_run(run_dir))
    (axes,) = figures["strategy_weights"].axes
    every, kept = axes.containers
    assert [bar.get_width() for bar in every] == [144, 18432, 1280]
    assert [bar.get_width() for bar in kept] == [100, 300, 160]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "block/conv2", "logits"]
    (axes,) = figures["strategy_rates"].axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[0]]
    assert np.allclose(ends, [100 / 144, 300 / 18432, 160 / 1280])


def test_bars_have_their_numbers_only_where_there_is_room(run_dir):
    def numbers(attacks):
        results = json.loads((run_dir / "results.json").read_text())
        for figures in results.values():
            figures["robust_accuracy"] = dict.fromkeys(attacks, 0.5)
        (run_dir / "results.json").write_text(json.dumps(results))
        figure = plots.figures(read_run(run_dir))["results"]
        return [text for text in figure.axes[0].texts if text.get_text()], len(results)

    texts, models = numbers(["pgd20"])
    assert len(texts) == 2 * models == 8
    assert numbers(["pgd20", "autoattack"])[0] == []


def test_lines_that_end_together_have_their_names_apart(run_dir):
    (axes,) = plots.figures(read_run(run_dir))["layer_rates"].axes
    places = sorted(
        text.get_position()[1] for text in axes.texts if text.get_text() in ("conv1", "block/conv2", "logits")
    )
    assert len(places) == 3 and min(np.diff(places)) > 0.06 and places[-1] <= 1


def test_a_deep_network_gets_a_colour_bar(run_dir):
    row = {"stage": "prune", "epoch": 0, "logs": {}, "rates": {f"layer{i}/kernel": 0.01 for i in range(54)}}
    (run_dir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    axes, bar = plots.figures(read_run(run_dir))["layer_rates"].axes
    assert len(axes.lines) == 55  # and the target
    assert [label.get_text() for label in bar.get_yticklabels()] == ["first\nlayer", "last\nlayer"]


def test_a_layer_may_be_called_anything(run_dir):
    rates = json.loads((run_dir / "rates.json").read_text())
    rates["layers"] = {
        "a$b_{/kernel": {"weights": 10, "kept": 10, "rate": 1.0},
        "<i>&": {"weights": 5, "kept": 1},
    }
    (run_dir / "rates.json").write_text(json.dumps(rates))
    svg = (write_report(run_dir).parent / "plots" / "strategy_rates.svg").read_text()
    assert "a$b_{" in svg and "&lt;i&gt;&amp;" in svg


def test_colours_are_told_apart_on_both_grounds():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one, other):
        low, high = sorted([luminance(one), luminance(other)])
        return (high + 0.05) / (low + 0.05)

    assert len(set(theme.LIGHT.values())) == len(theme.LIGHT) and set(theme.LIGHT) == set(theme.DARK)
    for colours, ground in ((theme.LIGHT, "#ffffff"), (theme.DARK, "#191d22")):
        for role in ("ink", "muted", "blue", "orange", "green", "pink"):
            assert contrast(colours[role], ground) >= 4.5, role
