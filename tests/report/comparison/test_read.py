import json

import numpy as np
import pytest

from harp_tf.answers import packed
from harp_tf.report.comparison.read import read_comparison
from harp_tf.types import HarpError


def test_groups_by_loss_and_sparsity(compared):
    record = read_comparison(compared())
    assert record.losses == ["pgd"] and record.targets("pgd") == [0.9, 0.97]
    assert [g["method"] for g in record.references("pgd")] == ["dense", "dense_control"]
    assert [g["method"] for g in record.pruned("pgd", 0.97)] == ["harp", "lwm"]
    assert record.attacks == ["pgd20", "autoattack"] and record.ranking == ["autoattack"]


def test_an_attack_that_not_all_were_measured_with(compared, cells):
    for one in cells[:-1]:  # the last one failed
        if (one["method"], one["sparsity"], one["seed"]) not in (("harp", 0.97, 0), ("lwm", 0.97, 0)):
            one["figures"]["robust"].pop("autoattack")
    record = read_comparison(compared(cells))
    assert record.ranking == ["pgd20", "autoattack"]
    harp = record.pruned("pgd", 0.97)[0]
    assert [harp["robust"][attack]["n"] for attack in record.ranking] == [2, 1]
    assert harp["robust"]["autoattack"]["mean"] == pytest.approx(0.63)
    for one in cells[:-1]:  # the last one failed
        one["figures"]["robust"].clear()
    assert read_comparison(compared(cells)).ranking == []


def test_a_strong_attack_that_few_were_measured_with_does_not_rank(compared, cells):
    for place, one in enumerate(cells[:-1]):
        robust = one["figures"]["robust"]
        robust["square1000"] = {**robust["pgd20"], "accuracy": robust["pgd20"]["accuracy"] + 0.01}
        if place:
            robust["apgd_t"] = {**robust["pgd20"], "accuracy": robust["pgd20"]["accuracy"] - 0.01}
        if place != 1:
            del robust["autoattack"]
    record = read_comparison(compared(cells))
    assert record.attacks == ["pgd20", "square1000", "autoattack", "apgd_t"]
    assert record.ranking == ["pgd20", "apgd_t"]


def test_which_images_the_seeds_were_right_on(compared, cells):
    def answer(cell, **right):
        cell["figures"]["natural"] |= {"images": 4, **right}

    seeds = [cell for cell in cells if (cell["method"], cell["sparsity"]) == ("harp", 0.97)]
    for cell, right in zip(seeds, ([1, 1, 0, 0], [1, 0, 1, 0]), strict=True):
        answer(cell, right=packed(np.array(right, bool)))
    for other in cells:
        if other["method"] == "lwm":
            answer(other)
    first, other = read_comparison(compared(cells)).pruned("pgd", 0.97)
    np.testing.assert_array_equal(first["natural"]["right"], [1, 0.5, 0.5, 0])
    assert "right" not in other["natural"] and "right" not in first["robust"]["pgd20"]
    answer(seeds[0], right="00ff")
    with pytest.raises(HarpError, match="expected the answers to 4 examples"):
        read_comparison(compared(cells))


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"groups": []})])
def test_what_is_no_record(tmp_path, content):
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(HarpError, match="is not the record of a comparison"):
        read_comparison(tmp_path)
