import pytest

from harp_tf.attacks import APGD, CW, FMN, PGD, APGDTargeted, Cascade, FABTargeted, Square, get, get_all
from harp_tf.attacks.named import NAMES, canonical
from harp_tf.types import HarpError


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_an_attack_of_the_radius(name, norm):
    attack = get(name, eps=0.25, norm=norm)
    assert (attack.eps, attack.norm) == (0.25, norm)
    assert get(name.replace("_", "-").upper(), eps=0.25, norm=norm) == attack


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("pgd7", PGD(eps=0.1, steps=7, step_size=0.01)),
        ("pgd", PGD(eps=0.1, steps=20, step_size=0.01)),
        ("PGD-20x3", PGD(eps=0.1, steps=20, step_size=0.01, restarts=3)),
        ("fgsm", PGD(eps=0.1, steps=1, step_size=0.1, start="clean")),
        ("cw50", CW(eps=0.1, steps=50, step_size=0.01)),
        ("apgd-ce", APGD(eps=0.1)),
        ("apgd-dlr10", APGD(eps=0.1, objective="dlr", steps=10)),
        ("apgd_t20", APGDTargeted(eps=0.1, steps=20)),
        ("fab-t", FABTargeted(eps=0.1)),
        ("square1000", Square(eps=0.1, queries=1000)),
        ("fmn", FMN(eps=0.1)),
        (
            "apgd-ce5+square20",
            Cascade(eps=0.1, parts=(("apgd_ce5", APGD(eps=0.1, steps=5)), ("square20", Square(eps=0.1, queries=20)))),
        ),
    ],
)
def test_names_and_their_attacks(name, attack):
    assert get(name, eps=0.1) == attack


def test_a_step_size_is_for_pgd_and_cw():
    found = get_all(["pgd5", "cw", "apgd-ce"], eps=0.1, step_size=0.03)
    assert [found[name].step_size for name in ("pgd5", "cw")] == [0.03, 0.03] and found["apgd_ce"] == APGD(eps=0.1)


@pytest.mark.parametrize(
    "name",
    ["", "no", "pgd0", "fgsm3", "20", "squarex2", "autoattack5", "pgd20x0", "a+b", "square+square", "pgd-1.5", "a\nb"],
)
def test_a_name_of_no_attack_is_refused(name):
    with pytest.raises(HarpError):
        get(name, eps=0.1)


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(HarpError, match="Unknown attack 'deepfool'. Choose from pgd, cw, apgd_ce.*autoattack"):
        get("deepfool", eps=0.1)
    with pytest.raises(HarpError, match="joins different single attacks"):
        get("autoattack+square", eps=0.1)


def test_one_name_in_its_forms():
    assert {canonical(name) for name in ("pgd20", "PGD-20", "pgd_20", " Pgd20 ")} == {"pgd20"}
    assert canonical("APGD-CE+fab-t") == "apgd_ce+fab_t"
