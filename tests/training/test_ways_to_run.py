"""Seeds and ways to run: eager, graph, XLA, several steps per call."""

import dataclasses

import keras
import numpy as np
import pytest

from harp_tf.attacks import PGD
from harp_tf.losses import FreeAdversarialTraining

GRAPH = {"compile": {"run_eagerly": False}}


@pytest.mark.parametrize("loss, options", [("pgd", GRAPH), ("trades", {})], ids=["pgd", "trades"])
def test_the_seed_decides_everything(pruned, trainer_of, fit, loss, options, changed, assert_equal_weights):
    networks = []
    for seed in (3, 3, 4):
        network = pruned()
        fit(trainer_of(network, loss, seed=seed, **options), epochs=2, batch_size=24)
        networks.append(network)
    assert_equal_weights(networks[0], networks[1])
    assert changed(*(dict(enumerate(n.get_weights())) for n in networks[1:]))


@pytest.mark.parametrize("accumulated", [None, 2])
def test_every_step_draws_its_own_start(classifier, trainer_of, fit, accumulated):
    seeds = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spy(PGD):
        def perturb(self, logits, images, labels, seed, number):
            seeds.append(seed.numpy().tolist())
            return super().perturb(logits, images, labels, seed, number)

    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)
    fit(trainer_of(classifier(), attack=Spy(eps=0.1, steps=1), seed=9, optimizer=optimizer), batch_size=24, epochs=2)
    assert seeds == [[9, 0], [9, 1], [9, 2], [9, 3]]


def test_any_whole_number_is_a_seed(classifier, trainer_of, data):
    trainer_of(classifier(), seed=3 * (2**31 - 1)).train_on_batch(*data)


FREE = pytest.param(FreeAdversarialTraining(batch_size=16, replays=2), id="free", marks=pytest.mark.slow)


@pytest.mark.parametrize("loss", ["pgd", FREE])
def test_every_way_to_run_gives_the_same_weights(pruned, trainer_of, fit, loss, assert_equal_weights):
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
def test_xla_gives_the_same_weights(pruned, trainer_of, fit, loss, assert_equal_weights):
    # XLA draws other random numbers: a radius of 0 leaves one start.
    attack = PGD(eps=0.0, steps=2, step_size=0.1)
    plain, compiled = pruned(), pruned()
    fit(trainer_of(plain, loss, attack, **GRAPH), epochs=2)
    history = fit(trainer_of(compiled, loss, attack, compile={"jit_compile": True, "run_eagerly": False}), epochs=2)
    assert np.isfinite(history["loss"]).all()
    assert_equal_weights(plain, compiled, rtol=1e-3, atol=1e-5)


def test_xla_trains_against_an_attack(pruned, trainer_of, fit, weights_of, changed):
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
