import pytest

from harp_tf.report import labels


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("pgd20", "PGD-20"),
        ("fgsm", "FGSM"),
        ("apgd_ce", "APGD-CE"),
        ("cw_inf", "C&W-inf"),
        ("autoattack", "AutoAttack"),
    ],
)
def test_attack(name, label):
    assert labels.attack(name) == label


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0.0"),
        (0.9, "90.0"),
        (0.9899, "99.0"),
        (0.999, "99.9"),
        (0.9995, "99.95"),
        (0.99997, "99.997"),
        (1, "100.00"),
    ],
)
def test_sparsity_is_never_rounded_up_to_everything(share, text):
    assert labels.sparsity(share) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (24_300, "24 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (59_700_000, "60 MB"),
        (999_600_000, "1.0 GB"),
        (5e12, "5000 GB"),
    ],
)
def test_size(count, text):
    assert labels.size(count) == text


def test_layers_keep_what_tells_them_apart():
    assert labels.layers(["conv1/kernel", "net/logits/kernel"]) == ["conv1", "net/logits"]
    assert labels.layers(["a/kernel", "a"]) == ["a/kernel", "a"]
    assert labels.layers(["a" * 40 + "_conv1/kernel"]) == ["a" * 13 + "…" + "a" * 10 + "_conv1"]
