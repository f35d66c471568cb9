from harp_tf.report.comparison.layers import shares_by_layer, what_harp_keeps


def group(method, **kept):
    return {"method": method, "layers": {f"{name}/kernel": {"weights": 100, "kept": k} for name, k in kept.items()}}


GROUPS = [group("harp", a=50, b=3, c=9), group("hydra", a=10, b=10, c=10), group("random", a=10, b=10, c=10)]


def test_methods_that_keep_the_same_are_one_line():
    paths, lines = shares_by_layer(GROUPS)
    assert paths == ["a/kernel", "b/kernel", "c/kernel"]
    assert lines == [(["harp"], [0.5, 0.03, 0.09]), (["hydra", "random"], [0.1, 0.1, 0.1])]
    assert shares_by_layer([{"method": "dense", "layers": {}}]) is None


def test_where_harp_keeps_what_others_cut():
    assert what_harp_keeps(GROUPS) == (
        "HARP keeps more of a (50 % against 10 %) and less of b (3 % against 10 %); "
        "the second figure is the median of the other methods."
    )
    assert what_harp_keeps([GROUPS[1] | {"method": "harp"}, GROUPS[2]]) == (
        "HARP keeps about what the others keep of every layer."
    )
    assert what_harp_keeps(GROUPS[1:]) == what_harp_keeps(GROUPS[:1]) == what_harp_keeps([]) == ""
