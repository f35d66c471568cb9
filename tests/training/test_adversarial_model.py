"""Adversarial training through compile, fit and evaluate: what moves, what is reported, what is refused."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD, Attack
from harp_tf.compression import MAX_LOGIT_GRADIENT, top_k_mask
from harp_tf.layers import pruned_kernels, rate_table
from harp_tf.losses import FreeAdversarialTraining, LossTerms, RobustLoss, Trades, cross_entropy
from harp_tf.training import KeepBest, StepwiseRegularization, adversarial_model
from harp_tf.types import HarpError

GRAPH = {"compile": {"run_eagerly": False}}
FIGURES = {"loss", "natural_loss", "robust_loss", "natural_accuracy", "adversarial_accuracy"}
SIZE_FIGURES = {"hw_loss", "gamma", "rate"}
LOSSES = ["natural", "pgd", "trades", "mart", FreeAdversarialTraining(batch_size=48, replays=2)]
LOSS_NAMES = ["natural", "pgd", "trades", "mart", "free"]


def weights_of(network) -> dict[str, np.ndarray]:
    return {v.path: keras.ops.convert_to_numpy(v).copy() for v in network.variables}


def changed(before: dict, after: dict) -> set[str]:
    return {path for path in before if not np.array_equal(before[path], after[path])}


def assert_equal_weights(one, other, **tolerance):
    first, second = weights_of(one), weights_of(other)
    assert list(first) == list(second)
    for a, b in zip(first.values(), second.values()):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


def set_rates(network, rate: float) -> None:
    for kernel in pruned_kernels(network):
        kernel.scores.set_rate(rate)


# Figures --------------------------------------------------------------------------------------------------------


def test_every_figure_is_reported_for_arrays_and_datasets(pruned, trainer_of, fit, data):
    expected = FIGURES | SIZE_FIGURES | {"accuracy"}
    trainer = trainer_of(pruned(), metrics=["accuracy"], **GRAPH)
    history = fit(trainer, validation_data=data)
    assert set(history) == expected | {f"val_{name}" for name in expected}
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(48, drop_remainder=True)
    assert set(fit(trainer, x=dataset)) == expected
    results = trainer.evaluate(dataset, return_dict=True, verbose=0)
    assert results == pytest.approx(trainer.evaluate(*data, batch_size=48, return_dict=True, verbose=0))
    assert set(results) == expected
    assert results["accuracy"] == results["natural_accuracy"]


@pytest.mark.parametrize("loss", LOSSES, ids=LOSS_NAMES)
def test_figures_are_those_of_the_network_before_the_step(classifier, trainer_of, data, loss):
    network = classifier()
    images, labels = data
    trainer = trainer_of(network, loss, PGD(eps=0.1, steps=2))
    # A clean pass that belongs to the loss runs in training mode, one that is only reported does not.
    logits = classifier()(images, training=loss in ("natural", "trades", "mart"))
    results = trainer.train_on_batch(images, labels, return_dict=True)
    if loss in LOSSES[:4]:  # free reports the clean figures of its last replay
        natural = float(tf.reduce_mean(cross_entropy(logits, labels)))
        assert results["natural_loss"] == pytest.approx(natural, rel=1e-4)
        assert results["natural_accuracy"] == pytest.approx((logits.numpy().argmax(-1) == labels).mean())
    assert results["loss"] == pytest.approx(results["robust_loss"])
    assert ("adversarial_accuracy" in results) == (loss != "natural")


def test_evaluation_attacks_the_network_with_the_attack_as_it_was_given(classifier, trainer_of, data):
    images, labels = data
    attack = PGD(eps=0.15, steps=3)
    for loss in ("natural", "pgd", "trades", FreeAdversarialTraining(batch_size=48)):
        network = classifier()
        adversarial = attack(network, images, labels, tf.constant([5, 0]))
        results = trainer_of(network, loss, attack, seed=5).evaluate(
            images, labels, batch_size=48, return_dict=True, verbose=0
        )
        right = network(adversarial).numpy().argmax(-1) == labels
        assert results["adversarial_accuracy"] == pytest.approx(right.mean())
        assert results["natural_accuracy"] == pytest.approx((network(images).numpy().argmax(-1) == labels).mean())
        natural = float(tf.reduce_mean(cross_entropy(network(images), labels)))
        assert results["natural_loss"] == pytest.approx(natural, rel=1e-5)


def test_without_an_attack_nothing_is_said_about_robustness(classifier, trainer_of, fit, data):
    trainer = trainer_of(classifier(), "natural", attack=None)
    assert set(fit(trainer)) == FIGURES - {"adversarial_accuracy"}
    assert set(trainer.evaluate(*data, return_dict=True, verbose=0)) == FIGURES - {"adversarial_accuracy"}


def test_evaluation_and_training_count_the_same_loss(pruned, trainer_of, fit, data):
    network = pruned(0.9)
    set_rates(network, 0.5)
    trainer = trainer_of(network, learning_rate=0.0)
    fit(trainer, gamma=0.3)
    results = trainer.evaluate(*data, batch_size=48, return_dict=True, verbose=0)
    assert results["gamma"] == pytest.approx(0.3)
    assert results["loss"] - results["robust_loss"] == pytest.approx(0.3 * results["hw_loss"], rel=1e-4)


def test_hw_loss_and_rate_follow_their_formulas(pruned, trainer_of, data):
    network = pruned(0.9)
    sizes, rates = np.array([192, 36]), np.array([0.3, 0.6])
    for kernel, rate in zip(pruned_kernels(network), rates):
        kernel.scores.set_rate(float(rate))
    results = trainer_of(network).evaluate(*data, return_dict=True, verbose=0)
    rate = (rates * sizes).sum() / sizes.sum()
    assert results["rate"] == pytest.approx(rate, rel=1e-4)
    assert results["hw_loss"] == pytest.approx(rate / 0.1 - 1, rel=1e-4)


def test_predict_returns_the_logits_of_the_network(pruned, trainer_of, data):
    network = pruned()
    trainer = trainer_of(network, **GRAPH)
    np.testing.assert_allclose(trainer.predict(data[0], verbose=0), network(data[0]), rtol=1e-5, atol=1e-6)


# Masks are selected once per step ---------------------------------------------------------------------------------


def count(function, *signature) -> int:
    """Number of histograms in the graph of a function, called functions and bodies of loops included."""
    definition = tf.function(function).get_concrete_function(*signature).graph.as_graph_def()
    called = {part.signature.name: part.node_def for part in definition.library.function}

    def inside(nodes) -> int:
        names = [value.func.name for node in nodes for value in node.attr.values() if value.HasField("func")]
        return sum(node.op == "DenseBincount" for node in nodes) + sum(inside(called[name]) for name in names)

    return inside(definition.node)


def selections(step) -> float:
    one = count(top_k_mask, tf.TensorSpec([10]), tf.TensorSpec([], tf.int32))
    images, labels = tf.TensorSpec([None, 4, 4, 1]), tf.TensorSpec([None], tf.int32)
    return count(lambda x, y: step((x, y)), images, labels) / one


@pytest.mark.parametrize("loss", ["natural", "pgd", "trades", "mart"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_step_selects_each_mask_once(pruned, trainer_of, loss, steps):
    trainer = trainer_of(pruned(), loss, PGD(eps=0.1, steps=steps))
    trainer.optimizer.build(trainer.trainable_variables)
    assert selections(trainer.train_step) == 2
    if loss == "pgd":
        assert selections(trainer.test_step) == 2


def test_free_selects_each_mask_once_per_replay(pruned, trainer_of):
    trainer = trainer_of(pruned(), FreeAdversarialTraining(batch_size=48, replays=3))
    trainer.optimizer.build(trainer.trainable_variables)
    assert selections(trainer.train_step) == 3 * 2


def test_the_count_notices_when_masks_are_not_shared(pruned, trainer_of, monkeypatch):
    monkeypatch.setattr(adversarial_model, "shared_kernels", lambda kernels: contextlib.nullcontext())
    trainer = trainer_of(pruned(), "trades")
    trainer.optimizer.build(trainer.trainable_variables)
    assert selections(trainer.train_step) > 2 * 3


def test_sharing_masks_changes_no_result(pruned, trainer_of, fit, monkeypatch):
    network, alone = pruned(), pruned()
    fit(trainer_of(network))
    monkeypatch.setattr(adversarial_model, "shared_kernels", lambda kernels: contextlib.nullcontext())
    fit(trainer_of(alone))
    assert_equal_weights(network, alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "loss, training, inference",
    [
        ("natural", 1, 0),
        ("pgd", 1, 3 + 1),  # the steps of the attack, and the clean figures
        ("trades", 2, 1 + 3),  # the attack's clean prediction, and its steps
        ("mart", 2, 3),
        (FreeAdversarialTraining(batch_size=48, replays=4), 4, 1),  # the clean figures once
    ],
    ids=LOSS_NAMES,
)
def test_a_step_makes_no_needless_pass(classifier, trainer_of, data, loss, training, inference):
    modes = []

    class Spy(keras.layers.Layer):
        def call(self, inputs, training=None):
            modes.append(training)
            return inputs

    trainer = trainer_of(keras.Sequential([keras.Input((4, 4, 1)), Spy(), classifier()]), loss, PGD(eps=0.1, steps=3))
    modes.clear()
    trainer.train_on_batch(*data)
    assert (modes.count(True), modes.count(False)) == (training, inference) and len(modes) == training + inference


# What a step moves ------------------------------------------------------------------------------------------------


def hidden(network, images) -> np.ndarray:
    return network.layers[1](network.layers[0](images)).numpy()


def test_batch_norm_sees_the_adversarial_images_once(classifier, trainer_of, data):
    network, images, labels = classifier(), *data
    attack = PGD(eps=0.1, steps=3)
    inputs = hidden(network, attack(network, images, labels, tf.constant([4, 0])))
    trainer_of(network, "pgd", attack, seed=4, learning_rate=0.0).train_on_batch(images, labels)
    bn = network.layers[2]
    np.testing.assert_allclose(bn.moving_mean, 0.01 * inputs.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bn.moving_variance, 0.99 + 0.01 * inputs.var(0), rtol=1e-4)


@pytest.mark.parametrize("loss", ["trades", "mart"])
def test_batch_norm_sees_clean_and_adversarial_images_once_each(classifier, trainer_of, data, loss):
    network, images, labels = classifier(), *data
    # With radius 0 both passes see the clean images: m -> 0.99 m + 0.01 mean, twice.
    trainer_of(network, loss, PGD(eps=0.0, steps=3, start="clean"), learning_rate=0.0).train_on_batch(images, labels)
    mean = hidden(network, images).mean(0)
    np.testing.assert_allclose(network.layers[2].moving_mean, (0.0099 + 0.01) * mean, rtol=0.02, atol=2e-5)


def test_evaluation_moves_nothing(pruned, trainer_of, data):
    network = pruned()
    before = weights_of(network)
    trainer_of(network).evaluate(*data, verbose=0)
    assert changed(before, weights_of(network)) == set()


@pytest.mark.parametrize("mode", ["harp", "score", "rate"])
def test_the_prune_stage_moves_scores_and_rates_but_no_kernel(pruned, trainer_of, fit, mode):
    network = pruned(0.8, mode=mode)
    before = weights_of(network)
    fit(trainer_of(network, weight_decay=1e-3))
    moved = changed(before, weights_of(network))
    parts = {path.split("/")[-1] for path in moved}
    assert (
        parts
        == {"gamma", "beta", "moving_mean", "moving_variance"}
        | {
            "harp": {"scores", "rate_logit"},
            "score": {"scores"},
            "rate": {"rate_logit"},
        }[mode]
    )
    layers = {path.split("/")[0] for path in moved if path.endswith(("scores", "rate_logit"))}
    assert layers == {"hidden", "logits"}


def test_the_finetune_stage_moves_weights_under_fixed_masks(pruned, trainer_of, fit):
    network = pruned(0.8)
    harp_tf.project_to_budget(network)
    harp_tf.set_stage(network, "finetune")
    before = weights_of(network)
    masks = [kernel.scores.mask().numpy() for kernel in pruned_kernels(network)]
    fit(trainer_of(network, weight_decay=1e-2), epochs=2)
    moved = {path.split("/")[-1] for path in changed(before, weights_of(network))}
    assert moved == {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}
    for kernel, mask in zip(pruned_kernels(network), masks):
        np.testing.assert_array_equal(kernel.scores.mask(), mask)
    # Momentum and decay revive nothing: what leaves the stage is zero outside the masks.
    kernels = [layer.kernel.numpy() for layer in harp_tf.strip(network).layers if hasattr(layer, "kernel")]
    assert all(not kernel[mask == 0].any() for kernel, mask in zip(kernels, masks))


def logit_moves(pruned, trainer_of, data, gamma):
    network = pruned(0.9)
    set_rates(network, 0.5)
    before = [float(k.scores.logit.numpy()) for k in pruned_kernels(network)]
    trainer = trainer_of(network, learning_rate=1.0)
    trainer.gamma.assign(gamma)
    trainer.train_on_batch(*data, sample_weight=np.zeros(len(data[1])))  # leaves the penalty alone
    return np.array([float(k.scores.logit.numpy()) for k in pruned_kernels(network)]) - before


def test_the_penalty_pulls_every_rate_by_its_formula(pruned, trainer_of, data):
    gamma = 0.01  # small enough for the bound of the gradient not to matter
    moved = logit_moves(pruned, trainer_of, data, gamma)
    minimum = 0.1 * 0.1
    sigmoid = (0.5 - minimum) / (1 - minimum)
    slope = np.array([192, 36]) / (0.1 * 228) * (1 - minimum) * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(moved, -gamma * slope, rtol=1e-3)


def test_no_single_step_moves_a_rate_far(pruned, trainer_of, data):
    np.testing.assert_allclose(logit_moves(pruned, trainer_of, data, 1000.0), -MAX_LOGIT_GRADIENT, rtol=1e-4)


@pytest.mark.parametrize("sparsity", [0.995, 0.999])
def test_rates_that_run_away_come_back(sparsity, data, fit, trainer_of):
    """The case in which the authors' code ends 95.2 % sparse: gamma_0 = 0.1 and a large step."""
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    network = harp_tf.prune(dense, sparsity, verbose=False)
    runaway = pruned_kernels(network)[0].scores.logit
    runaway.assign(38.7)
    best, stepwise = KeepBest(), StepwiseRegularization(0.1)
    trainer = trainer_of(network, attack=PGD(eps=0.05, steps=1), learning_rate=0.5, **GRAPH)
    history = fit(trainer, epochs=30, batch_size=4, callbacks=[best, stepwise], validation_data=data)
    total = sum(row["weights"] for row in rate_table(network).values())
    kept = sum(row["kept"] for row in rate_table(network).values())
    assert len(pruned_kernels(network)) <= kept <= (1 - sparsity) * total + 1e-6
    # The logit did return by itself: the penalty pulled the trained rates to the target, not the projection.
    assert history["hw_loss"][0] > 10 and history["hw_loss"][-1] < 0.5


# Weight decay -----------------------------------------------------------------------------------------------------


def test_decay_is_pytorchs_coupled_l2_under_momentum(data):
    images, labels = data
    pixels = images.reshape(48, -1).astype("float64")
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="ones")]
    )
    trainer = harp_tf.AdversarialModel(network, "natural", weight_decay=0.3)
    trainer.compile(keras.optimizers.SGD(0.2, momentum=0.9), run_eagerly=True)
    parameters = [np.ones((16, 3)), np.zeros(3)]
    velocities = [np.zeros((16, 3)), np.zeros(3)]
    for _ in range(4):
        trainer.train_on_batch(images, labels)
        logits = pixels @ parameters[0] + parameters[1]
        p = np.exp(logits - logits.max(1, keepdims=True))
        error = (p / p.sum(1, keepdims=True) - np.eye(3)[labels]) / 48
        gradients = [pixels.T @ error, error.sum(0)]
        # torch.optim.SGD: g += decay * w; v = momentum * v + g; w -= lr * v.
        velocities = [0.9 * v + g + 0.3 * w for v, g, w in zip(velocities, gradients, parameters)]
        parameters = [w - 0.2 * v for w, v in zip(parameters, velocities)]
    for weight, expected in zip(network.get_weights(), parameters):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coupled", [True, False])
def test_decay_spares_scores_and_rates(pruned, trainer_of, fit, coupled):
    moved = []
    for decay in (0.0, 0.5):
        network = pruned(0.8)
        optimizer = keras.optimizers.SGD(0.1, weight_decay=None if coupled else decay)
        fit(trainer_of(network, optimizer=optimizer, weight_decay=decay if coupled else 0.0))
        moved.append(weights_of(network))
    assert changed(*moved) == {"bn/gamma"}  # beta starts from 0


def test_decay_is_not_scaled_with_the_loss(classifier, trainer_of, data):
    plain, scaled = classifier(), classifier()
    for network, factor in ((plain, None), (scaled, 1024.0)):
        optimizer = keras.optimizers.SGD(0.1, loss_scale_factor=factor)
        trainer_of(network, optimizer=optimizer, weight_decay=0.1).train_on_batch(*data)
    assert_equal_weights(plain, scaled, rtol=1e-4, atol=1e-6)


def test_a_variable_without_gradient_is_left_alone(classifier, trainer_of, data):
    class Idle(keras.layers.Layer):
        def build(self, input_shape):
            self.idle = self.add_weight(shape=(2,), initializer="ones")

        def call(self, inputs):
            return inputs

    network = keras.Sequential([classifier(), Idle()])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        trainer_of(network, weight_decay=0.1).train_on_batch(*data)
    np.testing.assert_array_equal(network.layers[1].idle, [1.0, 1.0])


# The network's own losses, weights of samples ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=LOSS_NAMES)
def test_the_networks_own_losses_are_counted_once(classifier, trainer_of, data, loss):
    network = classifier(
        kernel_regularizer=keras.regularizers.L2(0.03), activity_regularizer=keras.regularizers.L1(0.01)
    )
    images, labels = data
    attack = PGD(eps=0.0, steps=3)
    expected = 0.03 * (network.layers[1].kernel.numpy() ** 2).sum()
    expected += 0.01 * np.abs(hidden(network, images)).sum() / 48  # Keras divides it by the batch
    trainer = trainer_of(network, loss, attack, learning_rate=0.0)
    results = trainer.train_on_batch(images, labels, return_dict=True)
    assert results["loss"] - results["robust_loss"] == pytest.approx(expected, rel=1e-4)
    results = trainer.evaluate(images, labels, batch_size=48, return_dict=True, verbose=0)
    assert results["loss"] - results["robust_loss"] == pytest.approx(expected, rel=1e-4)


def test_the_networks_own_losses_are_minimised(classifier, trainer_of, data):
    norms = []
    for factor in (0.0, 1.0):
        network = classifier(kernel_regularizer=keras.regularizers.L2(factor))
        trainer_of(network, learning_rate=0.05).train_on_batch(*data)
        norms.append(np.linalg.norm(network.layers[1].kernel.numpy()))
    assert norms[1] < 0.95 * norms[0]


@pytest.mark.parametrize("shape", [(48,), (48, 1)])
def test_sample_weights_weigh_the_loss_as_in_keras(classifier, trainer_of, data, shape):
    images, labels = data
    weights = np.linspace(0.0, 2.0, 48, dtype="float32")
    network = classifier()
    attack = PGD(eps=0.0, steps=1)
    values = cross_entropy(network(images, training=True), labels).numpy()
    network = classifier()
    results = trainer_of(network, "pgd", attack).train_on_batch(
        images, labels, sample_weight=weights.reshape(shape), return_dict=True
    )
    assert results["loss"] == pytest.approx((values * weights).sum() / 48, rel=1e-4)
    assert results["robust_loss"] == pytest.approx((values * weights).sum() / weights.sum(), rel=1e-4)


def test_images_of_weight_zero_do_not_count(classifier, trainer_of, fit, data):
    images, labels = data
    weights = (labels == 0).astype("float32")
    networks = [classifier(), classifier()]
    # Without batch statistics an image of weight 0 leaves no trace: its label may be anything.
    for network, wrong in zip(networks, (False, True)):
        network.layers[2].trainable = False
        given = np.where(wrong & (labels != 0), 3 - labels, labels)
        fit(trainer_of(network), x=images, y=given, sample_weight=weights, batch_size=48)
    assert_equal_weights(*networks)


def test_class_weights_are_sample_weights(classifier, trainer_of, fit, data):
    images, labels = data
    by_class, by_sample = classifier(), classifier()
    fit(trainer_of(by_class), class_weight={0: 0.5, 1: 1.0, 2: 3.0})
    weights = np.array([0.5, 1.0, 3.0])[labels]
    fit(trainer_of(by_sample), x=images, y=labels, sample_weight=weights, batch_size=48)
    assert_equal_weights(by_class, by_sample)


# Repeatability, ways to run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss, options", [("pgd", GRAPH), ("trades", {})], ids=["pgd", "trades"])
def test_the_seed_decides_everything(pruned, trainer_of, fit, loss, options):
    networks = []
    for seed in (3, 3, 4):
        network = pruned()
        fit(trainer_of(network, loss, seed=seed, **options), epochs=2, batch_size=24)
        networks.append(network)
    assert_equal_weights(networks[0], networks[1])
    assert changed(*(dict(enumerate(n.get_weights())) for n in networks[1:]))


def test_every_step_draws_its_own_start(classifier, trainer_of, fit):
    seeds = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spy(PGD):
        def perturb(self, logits, images, labels, seed, number):
            seeds.append(seed.numpy().tolist())
            return super().perturb(logits, images, labels, seed)

    fit(trainer_of(classifier(), attack=Spy(eps=0.1, steps=1), seed=9), batch_size=24, epochs=2)
    assert seeds == [[9, 0], [9, 1], [9, 2], [9, 3]]


def test_any_whole_number_is_a_seed(classifier, trainer_of, data):
    trainer_of(classifier(), seed=3 * (2**31 - 1)).train_on_batch(*data)


@pytest.mark.parametrize("loss", ["pgd", FreeAdversarialTraining(batch_size=16, replays=2)], ids=["pgd", "free"])
def test_every_way_to_run_gives_the_same_weights(pruned, trainer_of, fit, loss):
    networks, histories = [], []
    for options in ({"run_eagerly": True}, {"run_eagerly": False}, {"run_eagerly": False, "steps_per_execution": 2}):
        networks.append(pruned())
        histories.append(fit(trainer_of(networks[-1], loss, compile=options), batch_size=16, epochs=2))
    for network, history in zip(networks[1:], histories[1:]):
        assert_equal_weights(networks[0], network, rtol=1e-4, atol=1e-6)
        assert set(histories[0]) == set(history)
        for name, values in history.items():
            np.testing.assert_allclose(values, histories[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES, ids=LOSS_NAMES)
def test_xla_gives_the_same_weights(pruned, trainer_of, fit, loss):
    # XLA draws other random numbers: a radius of 0 leaves one start.
    attack = PGD(eps=0.0, steps=2, step_size=0.1)
    plain, compiled = pruned(), pruned()
    fit(trainer_of(plain, loss, attack, **GRAPH), epochs=2)
    history = fit(trainer_of(compiled, loss, attack, compile={"jit_compile": True, "run_eagerly": False}), epochs=2)
    assert np.isfinite(history["loss"]).all()
    assert_equal_weights(plain, compiled, rtol=1e-3, atol=1e-5)


def test_xla_trains_against_an_attack(pruned, trainer_of, fit):
    network = pruned()
    before = weights_of(network)
    trainer = trainer_of(network, attack=PGD(eps=0.1, steps=2), compile={"jit_compile": True, "run_eagerly": False})
    history = fit(trainer)
    assert np.isfinite(history["loss"]).all()
    assert any(path.endswith("scores") for path in changed(before, weights_of(network)))


def test_training_makes_the_network_robust(classifier, trainer_of, fit, data):
    attack = PGD(eps=0.1, steps=3)
    trainer = trainer_of(classifier(), "pgd", attack, **GRAPH)
    before = trainer.evaluate(*data, return_dict=True, verbose=0)["adversarial_accuracy"]
    fit(trainer, epochs=40, batch_size=16)
    after = trainer.evaluate(*data, return_dict=True, verbose=0)["adversarial_accuracy"]
    assert after > max(0.6, before + 0.2)


# Free adversarial training ----------------------------------------------------------------------------------------


def perturbation(trainer) -> np.ndarray:
    return keras.ops.convert_to_numpy(trainer._perturbation).copy()


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.5)])
def test_free_updates_once_per_replay_and_keeps_its_perturbation(classifier, trainer_of, data, norm, eps):
    network = classifier()
    free = FreeAdversarialTraining(batch_size=48, replays=3)
    trainer = trainer_of(network, free, PGD(eps=eps, norm=norm))
    assert not perturbation(trainer).any()
    trainer.train_on_batch(*data)
    assert int(trainer.optimizer.iterations.numpy()) == 3
    first = perturbation(trainer)
    sizes = np.linalg.norm(first.reshape(48, -1), axis=1) if norm == "l2" else np.abs(first).max((1, 2, 3))
    assert (sizes <= eps + 1e-6).all() and (sizes > 0).all()
    trainer.train_on_batch(*data)
    second = perturbation(trainer)
    assert not np.array_equal(first, second) and np.abs(second).max() <= eps + 1e-6


def test_free_follows_the_algorithm(data):
    """Shafahi et al., algorithm 1, written out for a linear network."""
    images, labels = data
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)])
    weights = network.get_weights()[0].astype("float64")
    trainer = harp_tf.AdversarialModel(network, FreeAdversarialTraining(batch_size=48, replays=3), PGD(eps=0.1))
    trainer.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    delta, pixels = np.zeros((48, 16)), images.reshape(48, 16).astype("float64")
    for _ in range(2):
        trainer.train_on_batch(images, labels)
        for _ in range(3):
            adversarial = np.clip(pixels + delta, 0, 1)
            logits = adversarial @ weights
            p = np.exp(logits - logits.max(1, keepdims=True))
            error = p / p.sum(1, keepdims=True) - np.eye(3)[labels]
            delta = np.clip(delta + 0.1 * np.sign(error @ weights.T), -0.1, 0.1)
            weights -= 0.5 * adversarial.T @ error / 48
    np.testing.assert_allclose(network.get_weights()[0], weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(perturbation(trainer).reshape(48, 16), delta, atol=1e-6)


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"run_eagerly": False}], ids=str)
def test_free_takes_the_smaller_last_batch(classifier, trainer_of, fit, data, options):
    trainer = trainer_of(classifier(), FreeAdversarialTraining(batch_size=36, replays=1), compile=options)
    fit(trainer, batch_size=36)
    rows = np.abs(perturbation(trainer)).max((1, 2, 3))
    assert rows.shape == (36,) and (rows > 0).all()
    before = perturbation(trainer)
    fit(trainer, x=data[0][:12], y=data[1][:12], batch_size=36)
    assert not np.array_equal(perturbation(trainer)[:12], before[:12])
    np.testing.assert_array_equal(perturbation(trainer)[12:], before[12:])


def test_free_refuses_a_larger_batch(classifier, trainer_of, fit):
    for options in ({}, GRAPH):
        trainer = trainer_of(classifier(), FreeAdversarialTraining(batch_size=16), **options)
        with pytest.raises(HarpError, match="A batch is larger than batch_size=16"):
            fit(trainer, batch_size=48)
    step = tf.function(trainer.train_step, input_signature=[(tf.TensorSpec([None, 4, 4, 1]), tf.TensorSpec([None]))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="A batch is larger than batch_size=16"):
        step((tf.zeros([48, 4, 4, 1]), tf.zeros([48])))


def test_free_needs_images_of_a_fixed_size():
    network = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    with pytest.raises(HarpError, match=r"images of the open size \(None, None, 1\)"):
        harp_tf.AdversarialModel(network, FreeAdversarialTraining(batch_size=8), PGD(eps=0.1))


# Mixed precision --------------------------------------------------------------------------------------------------


@pytest.fixture
def half(classifier):
    """The tiny classifier under mixed_float16."""
    keras.config.set_dtype_policy("mixed_float16")
    yield classifier()
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("loss", LOSSES, ids=LOSS_NAMES)
def test_attacks_and_losses_stay_float32_in_mixed_precision(half, trainer_of, data, loss):
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spy(PGD):
        def perturb(self, logits, images, labels, seed, number):
            candidates = super().perturb(logits, images, labels, seed)
            seen.extend([images.dtype, logits(images).dtype, candidates.dtype])
            return candidates

    network = harp_tf.prune(half, 0.5, verbose=False)
    assert network.layers[1].compute_dtype == "float16"
    trainer = trainer_of(network, loss, Spy(eps=0.1, steps=2))
    terms = trainer.robust_loss(trainer._train, *map(tf.constant, (data[0], data[0], data[1])))
    assert terms.robust.dtype == tf.float32
    assert isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
    before = weights_of(network)
    results = trainer.train_on_batch(*data, return_dict=True)
    assert np.isfinite(list(results.values())).all()
    assert set(seen) <= {tf.float32} and bool(seen) == (loss in LOSSES[1:4])
    moved = changed(before, weights_of(network))
    assert any(path.endswith("scores") for path in moved) and any(path.endswith("rate_logit") for path in moved)


def test_the_policy_of_the_network_decides_on_loss_scaling(half, trainer_of):
    keras.config.set_dtype_policy("float32")
    assert isinstance(trainer_of(half).optimizer, keras.optimizers.LossScaleOptimizer)


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
    assert np.isfinite(perturbation(trainer)).all()


# What is refused --------------------------------------------------------------------------------------------------


def test_forgetting_the_callback_fails_before_any_step(pruned, trainer_of, data):
    network = pruned()
    trainer = trainer_of(network)
    before = weights_of(network)
    for callbacks in (None, [], [KeepBest()], keras.callbacks.History()):
        with pytest.raises(HarpError, match="nothing drives the factor of their size penalty. Pass callbacks="):
            trainer.fit(*data, callbacks=callbacks)
    assert changed(before, weights_of(network)) == set()
    assert int(trainer.optimizer.iterations.numpy()) == 0


def test_the_callback_may_come_in_a_list_of_keras(pruned, trainer_of, data):
    trainer = trainer_of(pruned())
    callbacks = keras.callbacks.CallbackList([StepwiseRegularization()], add_history=True, model=trainer, epochs=1)
    trainer.fit(*data, callbacks=callbacks, verbose=0)


def test_fixed_rates_need_no_callback(pruned, trainer_of, data):
    trainer_of(pruned(mode="score")).fit(*data, verbose=0)
    network = pruned()
    harp_tf.set_stage(network, "finetune")
    trainer_of(network).fit(*data, verbose=0)


def test_a_loss_in_compile_is_refused(classifier):
    trainer = harp_tf.AdversarialModel(classifier(), "natural")
    for arguments, named in [(("sgd", "mse"), {}), (("sgd",), {"loss": "mse"})]:
        with pytest.raises(HarpError, match="has its own loss: pass it to the constructor"):
            trainer.compile(*arguments, **named)


@pytest.mark.parametrize("where", ["fit", "validation", "evaluate"])
@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x, y: (255 * x, y), "Divide 8-bit images by 255"),
        (lambda x, y: (x, np.eye(3)[y]), "Turn one-hot labels into indices"),
        (lambda x, y: (x, y + 1), "from 0 to 2 for a network with 3 outputs"),
    ],
    ids=["8-bit", "one-hot", "out of range"],
)
def test_bad_data_is_refused_before_any_step(classifier, trainer_of, data, spoil, message, where):
    trainer = trainer_of(classifier())
    bad = spoil(*data)
    for given in (bad, tf.data.Dataset.from_tensor_slices(bad).batch(16)):
        arrays = given if isinstance(given, tuple) else (given,)
        with pytest.raises(HarpError, match=message):
            if where == "fit":
                trainer.fit(*arrays, verbose=0)
            elif where == "validation":
                trainer.fit(*data, validation_data=given, verbose=0)
            else:
                trainer.evaluate(*arrays, verbose=0)
    assert int(trainer.optimizer.iterations.numpy()) == 0


def test_a_softmax_network_is_refused(classifier, trainer_of, data):
    trainer = trainer_of(keras.Sequential([classifier(), keras.layers.Softmax()]))
    with pytest.raises(HarpError, match="must return logits"):
        trainer.fit(*data, verbose=0)


def test_a_generator_trains(classifier, trainer_of, fit, data):
    batches = ((data[0][i : i + 16], data[1][i : i + 16]) for i in (0, 16, 32))
    trainer = trainer_of(classifier())
    fit(trainer, x=batches)
    assert int(trainer.optimizer.iterations.numpy()) == 3


@pytest.mark.parametrize("loss", LOSSES[1:], ids=LOSS_NAMES[1:])
def test_a_missing_attack_is_named(classifier, loss):
    with pytest.raises(HarpError, match=r"needs an attack, for example attack=harp_tf.attacks.PGD"):
        harp_tf.AdversarialModel(classifier(), loss)


def test_an_attack_that_the_loss_cannot_aim_is_named(classifier):
    class Still(Attack):
        def perturb(self, logits, images, labels, seed, number):
            return images

    with pytest.raises(HarpError, match="Trades sets objective and start"):
        harp_tf.AdversarialModel(classifier(), Trades(), Still(eps=0.1))


def test_a_loss_of_ones_own(classifier, trainer_of, fit):
    class Smooth(RobustLoss):
        needs_attack = False

        def __call__(self, predict, images, adversarial, labels):
            logits = predict(images)
            return LossTerms(cross_entropy(logits, labels) + 7.0, logits, None)

    history = fit(trainer_of(classifier(), Smooth(), attack=None))
    assert history["loss"][0] == pytest.approx(history["natural_loss"][0] + 7.0)
