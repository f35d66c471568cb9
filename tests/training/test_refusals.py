"""What the trainer refuses before any step, and what it takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD, Attack
from harp_tf.layers import pruned_kernels
from harp_tf.losses import FreeAdversarialTraining, LossTerms, RobustLoss, Trades, cross_entropy
from harp_tf.training import KeepBest, StepwiseRegularization
from harp_tf.types import HarpError


def test_forgetting_the_callback_fails_before_any_step(pruned, trainer_of, data, weights_of, changed):
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


def test_a_change_of_what_is_trained_needs_another_compile(pruned, trainer_of, data):
    network = pruned()
    trainer = trainer_of(network)
    trainer.fit(*data, callbacks=[StepwiseRegularization()], verbose=0)
    harp_tf.set_stage(network, "finetune")
    steps = int(trainer.steps)
    with pytest.raises(HarpError, match="has changed since compile.*Compile it again before fit"):
        trainer.fit(*data, verbose=0)
    assert int(trainer.steps) == steps
    trainer.compile("sgd")
    trainer.fit(*data, verbose=0)


def test_another_attack_is_trained_against_after_another_compile(classifier, trainer_of, fit, data):
    trainer = trainer_of(classifier(), attack=PGD(eps=0.0, steps=1), learning_rate=1e-9)
    weak = fit(trainer)["adversarial_accuracy"]
    trainer.attack = PGD(eps=0.9, steps=2)
    with pytest.raises(HarpError, match="attack. Compile it again"):
        fit(trainer)
    trainer.compile(keras.optimizers.SGD(1e-9), run_eagerly=True)
    history = fit(trainer, validation_data=data)
    assert history["adversarial_accuracy"][0] < weak[0] / 2
    assert history["val_adversarial_accuracy"][0] < weak[0] / 2


def test_what_the_user_spares_weight_decay_stays_spared(pruned, trainer_of):
    network = pruned()
    kernel = network.get_layer("logits").kernel
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[kernel], var_names=["gamma", "beta"])
    trainer = trainer_of(network, optimizer=optimizer)
    decayed = {v.path for v in network.variables if optimizer._use_weight_decay(v)}
    spared = {v.path for v in network.variables} - decayed
    assert kernel.path in spared and len([path for path in spared if path.endswith(("gamma", "beta"))]) == 2
    assert spared >= {v.path for k in pruned_kernels(network) for v in (k.scores.scores, k.scores.logit)}
    assert {path.rpartition("/")[2] for path in decayed} >= {"kernel", "bias"}
    assert trainer.optimizer is optimizer


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


@pytest.mark.parametrize(
    "loss", ["pgd", "trades", "mart", FreeAdversarialTraining(batch_size=48)], ids=["pgd", "trades", "mart", "free"]
)
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
