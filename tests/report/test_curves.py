import json

import numpy as np

from harp_tf.report import plots, write_report
from harp_tf.report.curves import write_security_curve
from harp_tf.report.run import read_run

CURVE = {"norm": "linf", "eps": [0.0, 0.1, 0.2], "robust_accuracy": [0.97, 0.9, 0.4]}


def with_curves(run_dir, **curves):
    results = json.loads((run_dir / "results.json").read_text())
    for model, found in curves.items():
        results[model]["security_curve"] = found
    (run_dir / "results.json").write_text(json.dumps(results))
    return read_run(run_dir)


def test_one_line_per_model_and_attack_with_the_measured_points(run_dir):
    run = with_curves(
        run_dir, dense={"pgd20": CURVE}, pruned={"pgd20": CURVE, "square": CURVE}, tflite={"pgd20": CURVE}
    )
    (axes,) = plots.figures(run)["security_curve"].axes
    *lines, own = axes.lines  # the file has no line beside the model that it was made from
    assert [line.get_label() for line in lines] == [
        "dense (Keras), PGD-20",
        "pruned (Keras), PGD-20",
        "pruned (Keras), Square",
    ]
    for line in lines:
        np.testing.assert_allclose(line.get_xydata(), np.array([[0, 97], [0.1, 90], [0.2, 40]]))
    assert lines[1].get_color() == lines[2].get_color() != lines[0].get_color()
    assert lines[1].get_linestyle() != lines[2].get_linestyle()
    assert set(own.get_xdata()) == {0.1}  # the run's own radius


def test_the_legend_is_whole_however_many_lines_there_are(run_dir):
    for names in (["apgd_ce", "cw"], ["apgd_ce+apgd_t", "square1000"], ["pgd20", "autoattack", "square1000", "fmn"]):
        curves = dict.fromkeys(names, CURVE)
        figure = plots.figures(with_curves(run_dir, dense=curves, pruned=curves))["security_curve"]
        figure.canvas.draw()
        (legend,) = figure.legends
        box, frame = legend.get_window_extent(), figure.bbox
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1, names
        assert figure.axes[0].get_window_extent().height > 0.5 * frame.height


def test_a_file_on_its_own_has_its_line(run_dir):
    (axes,) = plots.figures(with_curves(run_dir, tflite={"square": CURVE}))["security_curve"].axes
    assert axes.lines[0].get_label() == "dense (.tflite), Square"


def test_no_curve_no_picture(run_dir):
    assert "security_curve" not in plots.figures(read_run(run_dir))


def test_the_page_has_curve_stages_and_warnings(run_dir):
    with_curves(run_dir, pruned={"pgd20": CURVE})
    results = json.loads((run_dir / "results.json").read_text())
    entry = {
        "norm": "linf",
        "eps": 0.1,
        "n": 100,
        "stages": {"apgd_ce": 0.7, "square": 0.65},
        "checks": [{"check": "few<", "warning": "Too few."}],
    }
    results["pruned"]["robust_accuracy"]["autoattack"] = 0.65
    config = json.loads((run_dir / "config.json").read_text())
    config["flags"] |= {"norm": "linf", "eps": 0.1}
    (run_dir / "config.json").write_text(json.dumps(config))
    larger = {**entry, "eps": 0.2, "n": 200, "stages": {"apgd_ce": 0.3, "square": 0.2}}
    results["pruned"]["attacks"] = {"autoattack": [entry, larger]}
    (run_dir / "results.json").write_text(json.dumps(results))
    page = write_report(run_dir).read_text()
    assert "<strong>few&lt;</strong> pruned (Keras): AutoAttack at 0.1, AutoAttack at 0.2. Too few." in page
    assert "AutoAttack, eps 0.1, after" in page and "<td>70.0</td><td>65.0</td>" in page
    assert "security_curve" in page
    results["pruned"]["attacks"] = {"autoattack": [{**entry, "checks": []}]}
    (run_dir / "results.json").write_text(json.dumps(results))
    assert "The checks of the attacks found nothing." in write_report(run_dir).read_text()


def test_the_curves_of_a_file_are_drawn_beside_its_figures(tmp_path):
    write_security_curve({"my_file": {"security_curve": {}}}, tmp_path / "none")
    assert not list(tmp_path.iterdir())
    write_security_curve({"my_file": {"security_curve": {"square": CURVE}}}, tmp_path / "mine.of_today")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.of_today.png", "mine.of_today.svg"}
    assert "my_file" in (tmp_path / "mine.of_today.svg").read_text()
