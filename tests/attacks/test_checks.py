"""Networks that only look robust, each caught by the name of what is wrong with it; honest ones are left alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD, Cascade, Square, checks, evaluate

SHAPE, CLASSES = (8, 8, 1), 4
RNG = np.random.default_rng(0)
PATTERNS = RNG.random((CLASSES, 8, 8, 1)) > 0.5
LABELS = (np.arange(96) % CLASSES).astype(np.int32)
IMAGES = np.clip(0.25 + 0.5 * PATTERNS[LABELS] + RNG.normal(0, 0.1, (96, *SHAPE)), 0, 1).astype(np.float32)
WEIGHTS = tf.constant((2.0 * PATTERNS - 1.0).reshape(CLASSES, -1).T, tf.float32)


def honest(images):
    return tf.reshape(images - 0.5, [-1, 64]) @ WEIGHTS


def quantised(images):
    return honest(tf.round(images * 4.0) / 4.0)


def quantised_with_a_step_for_a_gradient(images):
    # Rounding built of comparisons: the gradient exists, and is 0 everywhere.
    return honest(sum(tf.nn.relu(tf.sign(images - level)) for level in (0.125, 0.375, 0.625, 0.875)) / 4.0)


def saturating(images):
    return 1000.0 * honest(images)


def randomised(images):
    return honest(images + tf.random.normal(tf.shape(images), stddev=0.1))


def softmax(images):
    return tf.nn.softmax(honest(images))


def squashed(images):
    return tf.tanh(honest(images))


def not_a_number(images):
    # A length, whose gradient at 0 is 0 / 0.
    return honest(images) + tf.sqrt(tf.reduce_sum(tf.square(images - images), [1, 2, 3]))[:, None]


def found(model, images=IMAGES, labels=LABELS, norm="linf"):
    graph = tf.function(model, reduce_retracing=True)
    return {finding.check: finding.warning for finding in checks.of_model(graph, images, labels, norm)}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_honest_network_is_left_alone(norm):
    assert found(honest, norm=norm) == {}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (quantised, {"no_gradient"}),
        (quantised_with_a_step_for_a_gradient, {"zero_gradients", "not_zero_at_huge_eps"}),
        (saturating, {"zero_gradients"}),
        (softmax, {"bounded_outputs"}),
        (squashed, {"bounded_outputs"}),
        (not_a_number, {"nan_gradients"}),
        (randomised, {"randomised"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_that_hides_its_gradients_is_caught_by_name(model, names):
    warnings = found(model)
    assert names <= set(warnings)
    assert all(text.endswith(".") and len(text) > 80 for text in warnings.values())


def test_a_network_of_one_answer_is_no_robust_one():
    def constant(images):
        return 1e-3 * honest(images) + tf.one_hot(2, CLASSES, on_value=50.0)

    warnings = found(constant)
    warning = warnings["one_class"]
    assert "not_zero_at_huge_eps" not in warnings  # "no network can" would be wrong: this one does
    assert "all 64 images the same class, 2." in warning and "from 0 to 255" in warning
    assert "one_class" not in found(honest)


def test_layers_of_keras_are_caught_as_well():
    inputs = keras.Input(SHAPE)
    features = keras.layers.Flatten()(inputs)
    dense = keras.layers.Dense(CLASSES)
    plain = keras.Model(inputs, dense(features))
    assert found(lambda x: plain(x, training=False)) == {}
    generator = keras.random.SeedGenerator(1)

    class Noisy(keras.layers.Layer):
        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs), stddev=0.2, seed=generator)

    noisy = keras.Model(inputs, dense(Noisy()(features)))
    assert "randomised" in found(lambda x: noisy(x, training=False))


def test_the_share_of_dead_gradients_is_told():
    warning = found(lambda images: honest(images) * tf.constant(1000.0))["zero_gradients"]
    assert "of 64 images" in warning


@pytest.mark.parametrize(
    ("before", "after", "total", "share", "strikes"),
    [
        (60, 59, 100, checks.FEW, False),  # one image is chance
        (600, 598, 1000, checks.FEW, False),  # 0.2 %, as the official check allows
        (600, 597, 1000, checks.FEW, True),
        (600, 580, 1000, checks.MUCH, False),
        (600, 579, 1000, checks.MUCH, True),
        (0, 0, 1000, checks.FEW, False),
    ],
)
def test_black_box_beats_white_box(before, after, total, share, strikes):
    finding = checks.black_box_beats_white_box(before, after, total, share)
    assert [f.check for f in finding] == (["black_box_beats_white_box"] if strikes else [])
    assert all(f"{before - after} of the {before} images" in f.warning for f in finding)


@pytest.mark.parametrize(
    ("right", "total", "strikes"), [(20, 40, True), (192, 384, False), (180, 360, True), (500, 1000, False)]
)
def test_too_few_samples(right, total, strikes):
    finding = checks.too_few(right, total)
    assert [f.check for f in finding] == (["too_few_samples"] if strikes else [])
    assert all(f"on {total} images" in f.warning for f in finding)


# As part of an evaluation --------------------------------------------------------------------------------------------


def evaluated(model, attacks, **settings):
    graph = tf.function(model, reduce_retracing=True)
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(48)
    predictors = {"model": lambda x: graph(tf.constant(x)).numpy()}
    figures = evaluate(graph, batches, attacks, predictors, CLASSES, **settings).figures["model"]
    return {
        name: (entry["robust_accuracy"], {c["check"] for c in entry["checks"]})
        for name, entry in figures["attacks"].items()
    }


EPS = 0.4
GRADIENT = {"pgd5": PGD(eps=EPS, steps=5)}


def test_an_honest_network_gets_its_figures_with_no_warning_but_the_number_of_images():
    (robust, names) = evaluated(honest, GRADIENT)["pgd5"]
    assert robust < 0.2 and names <= {"too_few_samples"}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (quantised, "no_gradient"),
        (quantised_with_a_step_for_a_gradient, "zero_gradients"),
        (not_a_number, "nan_gradients"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_gradient_attacks_run_get_nowhere_and_a_short_square_shows_it(model, name):
    (robust, names) = evaluated(model, {"pgd5": PGD(eps=EPS, steps=5, start="clean")})["pgd5"]
    assert robust > 0.9  # which would be a fine figure, were it true
    assert {name, "black_box_beats_white_box"} <= names


def test_a_cascade_whose_square_finds_more_says_so():
    parts = (("pgd", PGD(eps=EPS, steps=5, start="clean")), ("square", Square(eps=EPS, queries=200)))
    cascade = {"both": Cascade(eps=EPS, parts=parts)}
    robust, names = evaluated(quantised, cascade)["both"]
    assert robust < 0.5 and "black_box_beats_white_box" in names
    assert "black_box_beats_white_box" not in evaluated(honest, cascade)["both"][1]


def test_a_square_beside_a_gradient_attack_is_compared_with_it():
    attacks = {"pgd": PGD(eps=EPS, steps=5, start="clean"), "square": Square(eps=EPS, queries=200)}
    found = evaluated(quantised, attacks)
    assert "black_box_beats_white_box" in found["pgd"][1] and "black_box_beats_white_box" not in found["square"][1]


def test_beside_a_cascade_with_a_square_a_gradient_attack_is_probed_all_the_same():
    pgd = PGD(eps=EPS, steps=5, start="clean")
    parts = (("square", Square(eps=EPS, queries=200)), ("pgd", pgd))
    found = evaluated(quantised, {"pgd": pgd, "both": Cascade(eps=EPS, parts=parts)})
    assert "black_box_beats_white_box" in found["pgd"][1] and "black_box_beats_white_box" not in found["both"][1]


def test_checks_can_be_left_out():
    assert evaluated(softmax, GRADIENT, check=False)["pgd5"][1] <= {"too_few_samples"}
