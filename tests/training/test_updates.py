"""What a step moves, and by how much."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.compression import MAX_LOGIT_GRADIENT
from harp_tf.layers import pruned_kernels, rate_table
from harp_tf.training import KeepBest, StepwiseRegularization

GRAPH = {"compile": {"run_eagerly": False}}


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


def test_evaluation_moves_nothing(pruned, trainer_of, data, weights_of, changed):
    network = pruned()
    before = weights_of(network)
    trainer_of(network).evaluate(*data, verbose=0)
    assert changed(before, weights_of(network)) == set()


@pytest.mark.parametrize("mode", ["harp", "score", "rate"])
def test_the_prune_stage_moves_scores_and_rates_but_no_kernel(pruned, trainer_of, fit, mode, weights_of, changed):
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


def test_the_finetune_stage_moves_weights_under_fixed_masks(pruned, trainer_of, fit, weights_of, changed):
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


def logit_moves(pruned, trainer_of, data, set_rates, gamma):
    network = pruned(0.9)
    set_rates(network, 0.5)
    before = [float(k.scores.logit.numpy()) for k in pruned_kernels(network)]
    trainer = trainer_of(network, learning_rate=1.0)
    trainer.gamma.assign(gamma)
    trainer.train_on_batch(*data, sample_weight=np.zeros(len(data[1])))  # leaves the penalty alone
    return np.array([float(k.scores.logit.numpy()) for k in pruned_kernels(network)]) - before


def test_the_penalty_pulls_every_rate_by_its_formula(pruned, trainer_of, data, set_rates):
    gamma = 0.01  # small enough for the bound of the gradient not to matter
    moved = logit_moves(pruned, trainer_of, data, set_rates, gamma)
    minimum = 0.1 * 0.1
    sigmoid = (0.5 - minimum) / (1 - minimum)
    slope = np.array([192, 36]) / (0.1 * 228) * (1 - minimum) * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(moved, -gamma * slope, rtol=1e-3)


def test_no_single_step_moves_a_rate_far(pruned, trainer_of, data, set_rates):
    np.testing.assert_allclose(logit_moves(pruned, trainer_of, data, set_rates, 1000.0), -MAX_LOGIT_GRADIENT, rtol=1e-4)


@pytest.mark.slow
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
def test_decay_spares_scores_and_rates(pruned, trainer_of, fit, coupled, weights_of, changed):
    moved = []
    for decay in (0.0, 0.5):
        network = pruned(0.8)
        optimizer = keras.optimizers.SGD(0.1, weight_decay=None if coupled else decay)
        fit(trainer_of(network, optimizer=optimizer, weight_decay=decay if coupled else 0.0))
        moved.append(weights_of(network))
    assert changed(*moved) == {"bn/gamma"}  # beta starts from 0


def test_decay_is_not_scaled_with_the_loss(classifier, trainer_of, data, assert_equal_weights):
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
