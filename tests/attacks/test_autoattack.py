import json

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import APGD, FMN, PGD, APGDTargeted, AutoAttack, Cascade, Engine, FABTargeted, Square
from harp_tf.types import HarpError

WEIGHTS = tf.random.stateless_normal([12, 4], [3, 4])
IMAGES = tf.random.stateless_uniform([20, 2, 2, 3], [5, 6]).numpy()


def logits(images):
    return tf.tanh(tf.reshape(images, [-1, 12]) - 0.5) @ WEIGHTS * 4.0


def predict(images):
    return logits(images).numpy()


LABELS = predict(IMAGES).argmax(-1).astype(np.int32)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_standard_version_has_the_settings_of_its_authors(norm):
    attack = AutoAttack(eps=0.03, norm=norm)
    at = {"eps": 0.03, "norm": norm}
    assert attack.parts == (
        ("apgd_ce", APGD(**at, objective="cross_entropy", steps=100, rho=0.75)),
        ("apgd_t", APGDTargeted(**at, targets=9, steps=100, rho=0.75)),
        ("fab_t", FABTargeted(**at, targets=9, steps=100, alpha_max=0.1, eta=1.05, beta=0.9)),
        ("square", Square(**at, queries=5000, p_init=0.8)),
    )
    assert attack.tries(10) == 1 + 9 + 9 + 1 and attack.tries(3) == 1 + 2 + 2 + 1


def test_the_version_for_random_networks_averages_gradients():
    attack = AutoAttack(eps=0.03, version="rand")
    assert [name for name, _ in attack.parts] == ["apgd_ce", "apgd_dlr"]
    assert [part.passes for _, part in attack.parts] == [20, 20]


def test_averaged_gradients_find_their_way_where_single_ones_do_not():
    # Noise ten times as large as the slope: the sign of one gradient is a coin toss, that of twenty mostly right.
    generator = tf.random.Generator.from_seed(1)

    def noisy(images):
        noise = generator.normal(tf.shape(images), stddev=10.0)
        score = tf.reduce_sum((1.0 + noise) * (images - 0.5), [1, 2, 3])
        return tf.stack([score, -score], 1)

    images, labels = tf.fill([16, 4, 4, 1], 0.5), tf.zeros([16], tf.int32)

    def lowered(passes):
        attack = APGD(eps=0.2, steps=1, passes=passes)
        start = images
        adversarial = tf.function(lambda: attack.run(noisy, images, labels, start)[0])()
        return float(tf.reduce_mean(images - adversarial))

    assert lowered(400) > lowered(1) + 0.03


def test_an_unknown_version_is_refused():
    with pytest.raises(HarpError, match="version must be one of standard, rand"):
        AutoAttack(eps=0.1, version="plus")


@pytest.mark.parametrize("parts", [(), (("a", PGD(eps=0.2)),), (("a", PGD(eps=0.1, norm="l2")),)])
def test_parts_of_another_ball_are_refused(parts):
    with pytest.raises(HarpError, match="parts of a cascade"):
        Cascade(eps=0.1, parts=parts)


SHORT = Cascade(
    eps=0.12,
    parts=(
        ("apgd_ce", APGD(eps=0.12, steps=5)),
        ("fab_t", FABTargeted(eps=0.12, steps=5)),
        ("square", Square(eps=0.12, queries=20)),
    ),
)


@pytest.mark.parametrize("compiled", [False, True])
def test_called_like_any_attack_it_finds_what_the_engine_finds(compiled):
    seeds = tf.stack([tf.zeros([20], tf.int32), tf.range(20)], 1)
    call = tf.function(lambda x, y, s: SHORT(logits, x, y, s)) if compiled else lambda x, y, s: SHORT(logits, x, y, s)
    adversarial = call(tf.constant(IMAGES), tf.constant(LABELS), seeds).numpy()
    engine = Engine(SHORT, logits, (2, 2, 3), 4)
    outcome = engine.run(IMAGES, LABELS, np.arange(20), {"m": predict}, {"m": np.ones(20, bool)})
    np.testing.assert_array_equal(predict(adversarial).argmax(-1) == LABELS, outcome.standing["m"])
    fallen = ~outcome.standing["m"]
    assert 0 < fallen.sum() < 20
    np.testing.assert_allclose(adversarial[fallen], outcome.adversarial[fallen], atol=1e-5)


def test_it_is_as_strong_as_its_strongest_part():
    engine = Engine(SHORT, logits, (2, 2, 3), 4)
    correct = {"m": np.ones(20, bool)}
    whole = engine.run(IMAGES, LABELS, np.arange(20), {"m": predict}, correct).standing["m"]
    for _, part in SHORT.parts:
        alone = Engine(part, logits, (2, 2, 3), 4).run(IMAGES, LABELS, np.arange(20), {"m": predict}, correct)
        assert not (whole & ~alone.standing["m"]).any()


def test_the_record_names_all_settings():
    record = json.loads(json.dumps(AutoAttack(eps=0.1).as_dict()))
    assert record["attack"] == "cascade" and record["eps"] == 0.1
    assert list(record["parts"]) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert record["parts"]["square"]["queries"] == 5000 and record["parts"]["fab_t"]["targets"] == 9


def test_it_says_so_where_a_part_replaces_its_loss():
    assert "apgd_t" in AutoAttack(eps=0.1).note(3) and AutoAttack(eps=0.1).note(10) == ""
    assert FMN(eps=0.1).note(3) == ""
