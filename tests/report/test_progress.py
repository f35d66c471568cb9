from harp_tf.report import Progress


def test_a_terminal_has_one_line_that_renews_itself(capsys):
    progress = Progress("dense", 200, interactive=True)
    progress.show(0, "autoattack apgd_ce", {"autoattack": 0.75})
    progress.show(100, "", {"autoattack": 0.6})
    progress.show(200, "", {"autoattack": 0.611})
    shown = capsys.readouterr().out
    first, second, third = shown.split("\r")[1:]
    assert "autoattack apgd_ce" in first and "AutoAttack 75.0 %" in first and "0 of 200" in first
    assert second.count("█") == 12 and len(second) >= len(first)  # covers the longer line
    assert third.endswith("AutoAttack 61.1 %" + " " * (len(third) - 1 - len(third.rstrip())) + "\n")
    assert shown.count("\n") == 1


def test_elsewhere_a_line_comes_now_and_then_and_at_the_end():
    said, now = [], [0.0]
    progress = Progress("dense", 1000, said.append, interactive=False, clock=lambda: now[0])
    for seconds, done in ((1, 100), (31, 200), (40, 300), (62, 400), (63, 1000)):
        now[0] = seconds
        progress.show(done, "", {"pgd20": 0.5})
    assert said == [f"dense: {done} of 1,000 test images; PGD-20 50.0 %" for done in ("200", "400", "1,000")]


def test_elsewhere_a_batch_that_takes_long_says_what_it_is_at():
    said, now = [], [0.0]
    progress = Progress("pruned", 1000, said.append, interactive=False, clock=lambda: now[0])
    for seconds, part in ((31, "apgd_ce"), (62, "square")):
        now[0] = seconds
        progress.show(0, f"autoattack {part}", {"autoattack": 0.7})
    assert said == [
        f"pruned: 0 of 1,000 test images; autoattack {part}; AutoAttack 70.0 %" for part in ("apgd_ce", "square")
    ]


def test_without_attacks():
    said = []
    Progress("dense", 7, said.append, interactive=False).show(7, "", {})
    assert said == ["dense: 7 of 7 test images"]
