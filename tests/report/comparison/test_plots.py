import pytest

from harp_tf.report import write_comparison
from harp_tf.report.comparison.plots import figures
from harp_tf.report.comparison.read import read_comparison

NAMES = {
    "curve_pgd_natural", "curve_pgd_pgd20", "curve_pgd_autoattack", "standing_pgd_90", "layers_pgd_90",
    "standing_pgd_97", "layers_pgd_97",
}  # fmt: skip


def test_every_picture_is_written_twice(compared, cells):
    folder = compared([one for one in cells if one["sparsity"] in (None, 0.97)])
    written = sorted((write_comparison(folder).parent / "plots").iterdir())
    assert [path.name for path in written] == sorted(
        f"{name}.{kind}" for name in ("standing_pgd_97", "layers_pgd_97") for kind in ("png", "svg")
    )
    assert all(path.stat().st_size > 2000 for path in written)


def test_curves_have_a_point_per_sparsity_and_an_error(compared):
    drawn, captions = figures(read_comparison(compared()))
    assert set(drawn) == NAMES and NAMES <= set(captions)
    (axes,) = drawn["curve_pgd_natural"].axes
    names = [container.get_label() for container in axes.containers]
    assert names == ["HARP", "global magnitude", "random"]
    line, _, (bars,) = axes.containers[0]
    assert [round(y, 6) for y in line.get_ydata()] == [77.0, 77.0]
    (low, high), _ = ([y for _, y in segment] for segment in bars.get_segments())
    assert high - low > 2 * 100 * (0.77 * 0.23 / 10_000) ** 0.5 * 0.99


def test_a_method_that_collapses_does_not_squeeze_the_others(compared, cells):
    drawn, _ = figures(read_comparison(compared()))
    (axes,) = drawn["curve_pgd_natural"].axes
    assert axes.get_ylim()[1] - axes.get_ylim()[0] < 30  # all are close together
    (one,) = [one for one in cells if one["method"] == "lwm" and one["sparsity"] == 0.97 and one["seed"] == 0]
    one["figures"]["natural"]["accuracy"] = 0.1
    drawn, captions = figures(read_comparison(compared(cells)))
    (axes,) = drawn["curve_pgd_natural"].axes
    highest = max(y for line in axes.lines for y in line.get_ydata())
    assert axes.get_ylim() == (pytest.approx(highest - 30), pytest.approx(highest + 1.2))
    assert "more than 30 points below" in captions["curve_pgd_natural"]


def test_the_most_robust_stands_on_top(compared):
    drawn, _ = figures(read_comparison(compared()))
    (axes,) = drawn["standing_pgd_90"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["HARP", "global magnitude", "random"]


def test_methods_that_keep_the_same_share_a_line(compared):
    drawn, _ = figures(read_comparison(compared()))
    (axes,) = drawn["layers_pgd_90"].axes
    assert [line.get_label() for line in axes.lines] == ["HARP", "global magnitude, random"]


def test_an_attack_that_one_sparsity_was_measured_with(compared, cells):
    for one in cells[:-1]:  # the last one failed
        if one["sparsity"] == 0.9:
            del one["figures"]["robust"]["autoattack"]
    drawn, _ = figures(read_comparison(compared(cells)))
    assert set(drawn) == NAMES - {"curve_pgd_autoattack"}
    for sparsity, marks in (("90", ["natural", "PGD-20"]), ("97", ["natural", "PGD-20", "AutoAttack"])):
        (axes,) = drawn[f"standing_pgd_{sparsity}"].axes
        assert [container.get_label() for container in axes.containers] == marks
