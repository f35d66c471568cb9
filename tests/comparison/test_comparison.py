import dataclasses
import json
import shutil

import pytest

from harp_tf.comparison.comparison import duration
from harp_tf.run_record import RunRecord
from harp_tf.types import HarpError


def read(tmp_path) -> dict:
    return json.loads((tmp_path / "compared" / "comparison.json").read_text())


def statuses(tmp_path) -> dict[str, str]:
    return {cell["name"]: cell["status"] for cell in read(tmp_path)["cells"]}


def test_a_comparison_leaves_a_record_a_table_and_a_page(compare, stand_in, lines, tmp_path):
    assert compare().run() == []
    assert stand_in.cells == ["dense_pgd", "harp_90_pgd_seed0", "lwm_90_pgd_seed0"]
    assert set(statuses(tmp_path).values()) == {"finished"}
    folder = tmp_path / "compared"
    assert (folder / "comparison.html").exists() and (folder / "plots" / "standing_pgd_90.svg").exists()
    text = "\n".join(lines)
    assert "[2/3] harp_90_pgd_seed0: natural 80.0 %, PGD-20 70.0 % in 0 s; about 0 s left" in text
    assert "HARP 80.0 % leads, 30.0 points" in text
    assert (folder / "cells" / "dense_pgd" / "log.txt").read_text() == "made up\n"


def test_finished_cells_are_kept_and_others_join(compare, undrawn, stand_in, tmp_path):
    compare().run()
    stand_in.calls.clear()
    assert compare(methods=("harp", "random"), seeds=(0, 1)).run() == []
    assert stand_in.cells == ["random_90_pgd_seed0", "harp_90_pgd_seed1", "random_90_pgd_seed1"]
    assert len(statuses(tmp_path)) == 6  # lwm, which was not asked for again, is still told of
    harp, lwm, random = (g for g in read(tmp_path)["groups"] if g["target"] is not None)
    assert (harp["method"], harp["seeds"]) == ("harp", [0, 1]) and lwm["seeds"] == [0] and random["seeds"] == [0, 1]
    assert harp["natural"]["mean"] == pytest.approx(0.805) and harp["natural"]["sd"] == pytest.approx(0.01 / 2**0.5)
    assert harp["worst_class"] == pytest.approx(0.705)  # of a class that occurs


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(compare, undrawn, stand_in, lines, tmp_path):
    stand_in.broken = {"harp_90_pgd_seed0"}
    assert compare().run() == ["harp_90_pgd_seed0"]
    assert statuses(tmp_path) == {
        "dense_pgd": "finished",
        "harp_90_pgd_seed0": "failed",
        "lwm_90_pgd_seed0": "finished",
    }
    assert "FAILED harp_90_pgd_seed0: the model has no logits" in lines
    stand_in.broken, stand_in.calls = set(), []
    assert compare().run() == [] and stand_in.cells == ["harp_90_pgd_seed0"]
    assert "message" not in read(tmp_path)["cells"][1]


def test_without_its_dense_model_a_cell_is_not_tried(compare, undrawn, stand_in, tmp_path):
    stand_in.broken = {"dense_pgd"}
    failed = compare(losses=("pgd", "mart")).run()
    assert failed == ["dense_pgd", "harp_90_pgd_seed0", "lwm_90_pgd_seed0"]
    assert stand_in.cells == ["dense_pgd", "dense_mart", "harp_90_mart_seed0", "lwm_90_mart_seed0"]
    assert read(tmp_path)["cells"][1]["message"] == "it starts from dense_pgd, which failed"


def test_a_damaged_file_of_a_cell_stops_no_other(compare, undrawn, stand_in, tmp_path, monkeypatch):
    def damages(arguments, log, lock):
        found = stand_in(arguments, log, lock)
        if "harp" in log.parent.name:
            (log.parent / "results.json").write_text("{")
        return found

    comparison = compare()
    comparison._execute = damages
    assert comparison.run() == ["harp_90_pgd_seed0"]
    assert "results.json is damaged" in read(tmp_path)["cells"][1]["message"]
    assert statuses(tmp_path)["lwm_90_pgd_seed0"] == "finished"


def test_several_at_a_time_end_with_the_same_record(compare, undrawn, stand_in, tmp_path):
    asked = {"methods": ("harp", "lwm", "dense_control"), "seeds": (0, 1)}
    compare(**asked).run()
    one = [{**cell, "figures": 0} for cell in read(tmp_path)["cells"]]
    groups = read(tmp_path)["groups"]
    shutil.rmtree(tmp_path / "compared")
    stand_in.broken, stand_in.calls = {"lwm_90_pgd_seed1"}, []
    assert compare(**asked, jobs=3).run() == ["lwm_90_pgd_seed1"]
    assert stand_in.cells[0] == "dense_pgd" and len(stand_in.calls) == len(one)
    stand_in.broken = set()
    assert compare(**asked, jobs=3).run() == []
    assert [{**cell, "figures": 0} for cell in read(tmp_path)["cells"]] == one
    assert read(tmp_path)["groups"] == groups


def test_other_settings_of_training_are_refused_by_name(compare, undrawn, stand_in):
    compare().run()
    with pytest.raises(HarpError, match=r"--eps was 0.1 and is 0.2, --finetune_epochs was 4 and is 5"):
        compare(eps=0.2, finetune_epochs=5)
    assert len(stand_in.calls) == 3


def test_other_attacks_measure_what_is_trained_anew(compare, undrawn, stand_in, tmp_path):
    compare().run()
    stand_in.calls.clear()
    compare(attacks=("pgd20", "autoattack")).run()
    assert [call[1] for call in stand_in.calls] == ["harp_tf.evaluate"] * 3
    assert set(read(tmp_path)["groups"][0]["robust"]) == {"pgd20", "autoattack"}
    stand_in.calls.clear()
    compare().run()  # fewer attacks are there already
    assert stand_in.calls == []


def test_warnings_belong_to_the_attack_that_they_concern(compare, undrawn, stand_in, tmp_path):
    stand_in.found = {"pgd20": ["zero_gradients", "black_box_beats_white_box"]}
    compare(attacks=("pgd20", "autoattack")).run()
    for cell in read(tmp_path)["cells"]:
        robust = cell["figures"]["robust"]
        assert robust["pgd20"]["warnings"] == ["black_box_beats_white_box", "zero_gradients"]
        assert robust["autoattack"]["warnings"] == []


def test_attacks_by_any_of_their_spellings(compare, undrawn, stand_in, tmp_path):
    assert compare(attacks=("PGD-20", "apgd-ce")).run() == []
    assert set(read(tmp_path)["groups"][0]["robust"]) == {"pgd20", "apgd_ce"}


def test_a_measurement_that_fails_loses_no_earlier_one(compare, undrawn, stand_in, tmp_path):
    compare().run()
    before = read(tmp_path)["groups"]
    stand_in.broken = {"harp_90_pgd_seed0"}
    assert compare(attacks=("pgd20", "autoattack")).run() == ["harp_90_pgd_seed0"]
    assert statuses(tmp_path)["harp_90_pgd_seed0"] == "failed"
    harp = read(tmp_path)["groups"][1]
    assert harp["method"] == "harp" and harp["robust"] == before[1]["robust"]
    assert set(read(tmp_path)["groups"][2]["robust"]) == {"pgd20", "autoattack"}


def test_a_dense_model_of_the_user_can_be_measured_anew(compare, undrawn, stand_in, tiny_file, tmp_path):
    compare(init_from=str(tiny_file)).run()
    stored = json.loads((tmp_path / "compared" / "cells" / "dense_pgd" / "config.json").read_text())
    assert stored["flags"]["eps"] == 0.1 and "versions" in stored
    stand_in.calls.clear()
    assert compare(init_from=str(tiny_file), attacks=("pgd20", "fgsm")).run() == []
    assert [call[1] for call in stand_in.calls] == ["harp_tf.evaluate"] * 3


def test_a_cell_that_was_trained_otherwise_is_refused(compare, undrawn, tmp_path):
    compare().run()
    folder = tmp_path / "compared"
    other = dataclasses.replace(compare().cells[1].config, init_from="moved", weight_decay=0.25, attacks=("fgsm",))
    RunRecord.of(other, {}, {}).write({})
    with pytest.raises(HarpError, match=r"harp_90_pgd_seed0 was trained.*\(--weight_decay was 0.25 and is 0.0005\)"):
        compare().run()
    shutil.rmtree(folder / "cells" / "harp_90_pgd_seed0")
    assert compare().run() == []


def test_a_mean_is_of_seeds_measured_on_the_same_images(compare, undrawn, tmp_path):
    compare(methods=("harp",), seeds=(0, 1, 2)).run()
    path = tmp_path / "compared" / "cells" / "harp_90_pgd_seed1" / "results.json"
    results = json.loads(path.read_text())
    results["pruned"]["attacks"]["pgd20"][0] |= {"n": 20, "robust_accuracy": 0.1}
    path.write_text(json.dumps(results))
    compare(methods=("harp",), seeds=(0, 1, 2), robust_limit=20).run()
    group = next(group for group in read(tmp_path)["groups"] if group["method"] == "harp")
    found = group["robust"]["pgd20"]
    assert (found["n"], found["images"]) == (2, 200) and found["mean"] == pytest.approx(0.71)
    assert group["natural"]["n"] == 3


def test_cells_of_other_images_are_refused(compare, undrawn, stand_in, tmp_path):
    data = {split: {"images": 10, "sha256": "a"} for split in ("train", "validation", "test")}
    other = {**data, "train": {"images": 11, "sha256": "b"}}
    compare(data=data).run()
    record = tmp_path / "compared" / "comparison.json"
    assert json.loads(record.read_text())["data"] == data
    stand_in.calls.clear()
    with pytest.raises(HarpError, match="cells in .* were trained with other images .*train"):
        compare(methods=("random",), data=other)
    record.unlink()
    cell = compare().cells[1]
    RunRecord.of(cell.config, {}, data).write({})
    with pytest.raises(HarpError, match="harp_90_pgd_seed0 was trained.*the train images were others"):
        compare(data=other).run()
    assert stand_in.calls == [] and compare(data=data).run() == []


def test_a_cell_whose_folder_was_removed_is_told_of_only_where_it_is_asked_for(compare, undrawn, tmp_path):
    compare(methods=("harp", "lwm", "random")).run()
    for name in ("lwm_90_pgd_seed0", "random_90_pgd_seed0"):
        shutil.rmtree(tmp_path / "compared" / "cells" / name)
    assert compare(methods=("harp", "lwm")).run() == []
    assert set(statuses(tmp_path)) == {"dense_pgd", "harp_90_pgd_seed0", "lwm_90_pgd_seed0"}


def test_radii_without_that_of_the_ranking_are_refused(compare):
    with pytest.raises(HarpError, match=r"eps_list must hold eps = 0.1.*received 0.05, 0.2. Add it, or change eps"):
        compare(eps_list=("0.05", "0.2"))


def test_a_cell_that_ends_without_figures_has_failed(compare, undrawn, stand_in, monkeypatch):
    monkeypatch.setattr(type(stand_in), "__call__", lambda *_: "")
    assert compare().run() == ["dense_pgd", "harp_90_pgd_seed0", "lwm_90_pgd_seed0"]


@pytest.mark.parametrize("content", ['{"stage": 1}\n', '{"stage": "prune", "epoch": 0, "seconds": "x"}\n'])
def test_a_finished_cell_whose_files_are_damaged_is_not_left_out_silently(compare, undrawn, tmp_path, content, lines):
    compare().run()
    (tmp_path / "compared" / "cells" / "lwm_90_pgd_seed0" / "metrics.jsonl").write_text(content)
    assert compare().run() == ["lwm_90_pgd_seed0"]
    assert statuses(tmp_path)["lwm_90_pgd_seed0"] == "failed"
    assert any("metrics.jsonl" in line for line in lines)


def test_a_record_that_is_none_is_refused(compare, undrawn, tmp_path):
    compare()
    (tmp_path / "compared").mkdir()
    for content in ("[]", '{"flags": {}, "cells": [{}]}'):
        (tmp_path / "compared" / "comparison.json").write_text(content)
        with pytest.raises(HarpError, match="comparison.json is damaged: .*. Remove it; the cells"):
            compare()


def test_budgets_count_the_shared_dense_model_too(compare, undrawn, tmp_path):
    compare(methods=("harp", "dense_control")).run()
    dense, control, harp = read(tmp_path)["groups"]
    assert dense["epochs"] == {"dense": 2} and dense["passes"] == {"dense": 2 * 5 * 11}
    assert control["epochs"] == {"dense": 2, "control": 3 + 4}
    assert harp["epochs"] == {"dense": 2, "prune": 3} and harp["passes"]["prune"] == 3 * 5 * 11
    assert harp["seconds"] == {"prune": 6.0}
    assert harp["layers"]["conv/kernel"] == {"weights": 100, "kept": 40.0}


@pytest.mark.parametrize("seconds, text", [(4.4, "4 s"), (100, "2 min"), (3700, "62 min"), (7500, "2 h 5 min")])
def test_times_for_people(seconds, text):
    assert duration(seconds) == text
