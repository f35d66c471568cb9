"""Mixed precision: attacks, losses, scores and rates stay float32."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.attacks.precision import half_precision_safe
from harp_tf.layers import pruned_kernels
from harp_tf.losses import FreeAdversarialTraining, cross_entropy
from harp_tf.types import HarpError


@pytest.fixture
def half(classifier):
    """The tiny classifier under mixed_float16."""
    keras.config.set_dtype_policy("mixed_float16")
    yield classifier()
    keras.config.set_dtype_policy("float32")


def masked_dtypes(network) -> set[str]:
    return {kernel.scores.mask().dtype.name for kernel in pruned_kernels(network)}


@pytest.fixture(params=["float16", "bfloat16"])
def precision(request):
    """Makes new layers compute in one of the short types, whose name it is."""
    keras.config.set_dtype_policy(f"mixed_{request.param}")
    yield request.param
    keras.config.set_dtype_policy("float32")


def test_attacks_and_losses_stay_float32(precision, classifier, trainer_of, data, loss, weights_of, changed):
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spy(PGD):
        def perturb(self, logits, images, labels, seed, number):
            candidates = super().perturb(logits, images, labels, seed, number)
            seen.extend([images.dtype, logits(images).dtype, candidates.dtype])
            return candidates

    network = harp_tf.prune(classifier(), 0.5, verbose=False)
    assert network.layers[1].compute_dtype == precision
    scores = [v for kernel in pruned_kernels(network) for v in (kernel.scores.scores, kernel.scores.logit)]
    assert {v.dtype for v in scores} == {"float32"} and masked_dtypes(network) == {"float32"}
    trainer = trainer_of(network, loss, Spy(eps=0.1, steps=2))
    terms = trainer.robust_loss(trainer._train, *map(tf.constant, (data[0], data[0], data[1])))
    assert terms.robust.dtype == tf.float32
    assert isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "float16")
    before = weights_of(network)
    results = trainer.train_on_batch(*data, return_dict=True)
    assert np.isfinite(list(results.values())).all()
    assert set(seen) <= {tf.float32} and bool(seen) == (loss in ("pgd", "trades", "mart"))
    moved = changed(before, weights_of(network))
    assert any(path.endswith("scores") for path in moved) and any(path.endswith("rate_logit") for path in moved)


def test_the_policy_of_the_network_decides_on_loss_scaling(half, trainer_of):
    keras.config.set_dtype_policy("float32")
    assert isinstance(trainer_of(half).optimizer, keras.optimizers.LossScaleOptimizer)
    # So does a network some of whose layers compute in float16 by themselves.
    mixed = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, dtype="mixed_float16")]
    )
    assert isinstance(trainer_of(mixed).optimizer, keras.optimizers.LossScaleOptimizer)


def test_decay_survives_loss_scaling_of_mixed_precision(half, trainer_of, data):
    before = half.layers[1].kernel.numpy()
    trainer = trainer_of(half, optimizer=keras.optimizers.SGD(0.1), weight_decay=2.0)
    trainer.train_on_batch(*data)
    # The gradient is small beside a decay of 2: every weight shrinks by about 0.1 * 2.
    ratio = np.linalg.norm(half.layers[1].kernel.numpy()) / np.linalg.norm(before)
    assert ratio == pytest.approx(0.8, abs=0.05)


def test_an_overflow_does_not_stay_in_the_perturbation_of_free(half, trainer_of, data):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**40)
    trainer = trainer_of(half, FreeAdversarialTraining(batch_size=48), PGD(eps=0.5, norm="l2"), optimizer=optimizer)
    trainer.train_on_batch(*data)
    assert np.isfinite(trainer.perturbation).all()


def confident(classifier) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A network that is so sure of its answers that the loss has gradients of 1e-12, and images with its answers."""
    network = classifier()
    network.layers[-1].kernel.assign(100 * network.layers[-1].kernel)
    images = np.random.default_rng(1).uniform(0.2, 0.8, size=(64, 4, 4, 1)).astype("float32")
    logits = keras.ops.convert_to_numpy(network(images)).astype("float32")
    first, second = np.sort(logits)[:, ::-1][:, :2].T
    sure = (first - second > 25) & (first - second < 60)
    assert sure.sum() > 5
    return network, images[sure], logits.argmax(-1)[sure].astype("int32")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_of_an_attack_do_not_vanish(precision, classifier, trainer_of, norm):
    network, images, labels = confident(classifier)
    attack = PGD(eps=0.1, norm=norm, step_size=0.1, steps=1, start="clean")
    seed = tf.constant([0, 0])

    def moved(logits) -> np.ndarray:
        return np.abs(attack(logits, tf.constant(images), labels, seed) - images).max((1, 2, 3)) > 0

    trainer = trainer_of(network, attack=attack)
    assert moved(trainer._infer).all()
    # Left alone, float16 has no number so small.
    alone = moved(lambda x: tf.cast(network(x, training=False), tf.float32))
    assert not alone.any() if precision == "float16" else alone.all()


def test_a_protected_gradient_has_its_true_size(half, classifier):
    keras.config.set_dtype_policy("float32")
    images = tf.constant(np.random.default_rng(1).uniform(size=(5, 4, 4, 1)).astype("float32"))

    def gradient(logits) -> np.ndarray:
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = cross_entropy(logits(images), tf.constant([0, 1, 2, 0, 1]))
        return tape.gradient(loss, images).numpy()

    expected = gradient(classifier())
    found = gradient(half_precision_safe(lambda x: half(x, training=False)))
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_a_protected_gradient_that_does_not_exist_is_reported(half, data):
    logits = half_precision_safe(lambda x: tf.stop_gradient(half(x, training=False)))
    with pytest.raises(HarpError, match="The logits have no gradient with respect to the images"):
        PGD(eps=0.1)(logits, *map(tf.constant, data), tf.constant([0, 0]))


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_float16_trains_compiled(half, trainer_of, fit, jit_compile):
    network = harp_tf.prune(half, 0.5, verbose=False)
    before = [kernel.scores.scores.numpy() for kernel in pruned_kernels(network)]
    history = fit(
        trainer_of(network, attack=PGD(eps=0.1, steps=1), compile={"run_eagerly": False, "jit_compile": jit_compile})
    )
    assert np.isfinite(history["loss"]).all()
    assert all((kernel.scores.scores.numpy() != b).any() for kernel, b in zip(pruned_kernels(network), before))


def test_predict_leaves_the_precision_of_the_images_to_the_network(half, trainer_of, data):
    keras.config.set_dtype_policy("float32")
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Rescaling(1000.0, -500.0), half])
    images = data[0]
    np.testing.assert_array_equal(trainer_of(network).predict(images, verbose=0), network(images))
