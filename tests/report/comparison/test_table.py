from harp_tf.report import comparison_table
from harp_tf.report.comparison import table
from harp_tf.report.comparison.read import read_comparison


def test_the_terminal_gets_everything(compared):
    text = comparison_table(compared())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "method sparsity natural worst class PGD-20 AutoAttack kept file seeds" in lines
    assert "HARP 97.2 % 77.0 ± 1.4 57.0 67.0 ± 1.4 64.0 ± 1.4 560 11 kB 2" in lines
    assert "dense control - 81.0 61.0 71.0 68.0 19,856 88 kB 1" in lines
    assert "natural: HARP 77.0 % wins, 7.0 points (standard error 1.8) ahead of global magnitude." in lines
    assert text.endswith(
        "Accuracies in %, on 10,000 test images, under attack on 1,000; standard error up to 2.1 points. "
        "± is the sample standard deviation over seeds. Not finished: random_97_0."
    )


def test_an_attack_on_fewer_models_is_told_beside_the_one_on_all(compared, cells):
    for one in cells[:-1]:  # the last one failed
        if (one["method"], one["sparsity"], one["seed"]) not in (("harp", 0.97, 0), ("lwm", 0.97, 0)):
            one["figures"]["robust"].pop("autoattack")
    text = comparison_table(compared(cells))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "HARP 97.2 % 77.0 ± 1.4 57.0 67.0 ± 1.4 63.0 (1 seed) 560 11 kB 2" in lines
    assert "Unpruned: dense: natural 78.0 %, PGD-20 68.0 %; dense control, trained on for" in text
    at = next(part for part in text.split("\n\n") if part.startswith("97.0 % sparsity"))
    assert [line.split(":")[0].strip() for line in at.splitlines()[1:]] == ["natural", "PGD-20", "AutoAttack"]


def test_the_dense_models_are_told_of_first(compared):
    assert table.unpruned(read_comparison(compared()), "pgd") == (
        "Unpruned: dense: natural 78.0 %, AutoAttack 65.0 %; dense control, trained on for as many epochs as the "
        "others: natural 81.0 %, AutoAttack 68.0 %."
    )


def test_budgets_are_compared(compared, cells):
    record = read_comparison(compared())
    text = table.equal_costs(record, "pgd")
    assert "HARP, global magnitude, random: 11 epochs and 7,040 gradient passes" in text and "differ" in text
    same = [one for one in cells if one["method"] != "dense_control"]
    assert table.equal_costs(read_comparison(compared(same)), "pgd") == (
        "All models got the same budget after the dense model they start from: 11 epochs and 7,040 gradient passes "
        "over a batch."
    )
    rows = table.costs(record, "pgd")
    assert rows[0] == [
        "method", "dense, epochs", "control, epochs", "prune, epochs", "finetune, epochs", "gradient passes",
        "training, s",
    ]  # fmt: skip
    assert rows[3] == ["HARP", "8", "-", "5", "6", "12,160", "126"]
    for one in cells:
        if (one["method"], one["sparsity"]) == ("harp", 0.97):
            one["figures"]["seconds"]["prune"] += 40.0
    assert table.costs(read_comparison(compared(cells)), "pgd")[3][-1] == "146"  # the mean over two sparsities


def test_sizes_are_a_column_per_sparsity(compared):
    assert table.sizes(read_comparison(compared()), "pgd") == [
        ["file, gzipped", "90.0 %", "97.0 %"],
        ["dense", "88 kB, 66 kB", "88 kB, 66 kB"],
        ["dense control", "88 kB, 66 kB", "88 kB, 66 kB"],
        ["HARP", "11 kB, 7.7 kB", "11 kB, 7.7 kB"],
        ["global magnitude", "11 kB, 7.8 kB", "11 kB, 7.8 kB"],
        ["random", "11 kB, 7.8 kB", "-"],
    ]


def test_what_the_attacks_warn_of(compared, cells):
    assert table.checks(read_comparison(compared())) == ""
    for one in cells[:-1]:  # the last one failed
        one["figures"]["robust"]["pgd20"]["warnings"] = ["too_few_samples", "bounded_outputs"]
        one["figures"]["robust"]["autoattack"]["warnings"] = ["zero_gradients"] * (one["method"] == "dense")
    assert table.checks(read_comparison(compared(cells))) == (
        "* The checks of the attacks warn, so these accuracies may be too high, see the reports of the runs: "
        "bounded_outputs in all; "
        "zero_gradients in dense_0_0."
    )


def test_an_attack_of_other_settings_is_told(compared, cells):
    assert table.unlike(read_comparison(compared())) == ""
    for one in cells[:-1]:
        one["figures"]["robust"]["pgd20"]["settings"] = {"attack": "pgd", "step_size": 0.01}
    assert table.unlike(read_comparison(compared(cells))) == ""
    other = next(one for one in cells if one["method"] == "lwm")
    other["figures"]["robust"]["pgd20"]["settings"] = {"attack": "pgd", "step_size": 0.025}
    folder = compared(cells)
    text = table.unlike(read_comparison(folder))
    assert text.startswith("WARNING: an attack had other settings") and text.endswith(f": PGD-20 in {other['name']}.")
    assert text in table.comparison_table(folder)


def test_few_images_are_no_reason_to_doubt_an_attack(compared, cells):
    for one in cells[:-1]:
        one["figures"]["robust"]["pgd20"]["warnings"] = ["too_few_samples"]
    record = read_comparison(compared(cells))
    assert table.checks(record) == ""
    assert not any("*" in cell for row in table.everything(record, "pgd") for cell in row)


def test_an_asterisk_marks_what_the_attacks_warn_of(compared, cells):
    warned = next(one for one in cells if one["method"] == "harp" and one["sparsity"] == 0.97)
    warned["figures"]["robust"]["pgd20"]["warnings"] = ["zero_gradients"]
    rows = table.everything(read_comparison(compared(cells)), "pgd")
    marked = [row for row in rows if any(cell.endswith("*") for cell in row)]
    assert [row[:6] for row in marked] == [["HARP", "97.2 %", "77.0 ± 1.4", "57.0", "67.0 ± 1.4*", "64.0 ± 1.4"]]


def test_records_of_earlier_versions_know_no_worst_class(compared, cells):
    del next(one for one in cells if one["method"] == "harp" and one["seed"] == 1)["figures"]["worst_class"]
    rows = {(row[0], row[1]): row[3] for row in table.everything(read_comparison(compared(cells)), "pgd")}
    assert rows["method", "sparsity"] == "worst class"
    assert rows["HARP", "97.2 %"] == "-" and rows["dense control", "-"] == "61.0"
    for one in cells[:-1]:  # the last one failed
        one["figures"].pop("worst_class", None)
    assert "worst class" not in table.everything(read_comparison(compared(cells)), "pgd")[0]


def test_nothing_finished_is_a_table_too(compared):
    assert comparison_table(compared([])) == ""
