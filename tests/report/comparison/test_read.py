import json

import pytest

from harp_tf.report.comparison.read import read_comparison
from harp_tf.types import HarpError


def test_groups_by_loss_and_sparsity(compared):
    record = read_comparison(compared())
    assert record.losses == ["pgd"] and record.targets("pgd") == [0.9, 0.97]
    assert [g["method"] for g in record.references("pgd")] == ["dense", "dense_control"]
    assert [g["method"] for g in record.pruned("pgd", 0.97)] == ["harp", "lwm"]
    assert record.attacks == ["pgd20", "autoattack"] and record.strongest == "autoattack"


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"groups": []})])
def test_what_is_no_record(tmp_path, content):
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(HarpError, match="is not the record of a comparison"):
        read_comparison(tmp_path)
