"""Watchdogs: what they warn of, what they stop, and that a healthy run hears nothing."""

import json
import math

import keras
import numpy as np
import pytest

import harp_tf
from harp_tf.layers import pruned_kernels, rate_table
from harp_tf.training import Checkpoint, CheckpointStore, MetricsLog, Position, StopOnNaN, Watchdog
from harp_tf.training.watchdogs import Finding, collapse, dying_layers, missed_target, not_finite
from harp_tf.types import HarpError

# Losses and weights that are no numbers ---------------------------------------------------------------------------


class PoisonAfter(keras.callbacks.Callback):
    """Makes a weight NaN after a step of the training."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.steps) == self.step:
            kernel = self.model.network.layers[-1].kernel
            kernel.assign(np.full(kernel.shape, np.nan))


def test_a_loss_that_is_no_number_ends_the_training(classifier, trainer_of, fit):
    trainer = trainer_of(classifier(), learning_rate=1e30)
    with pytest.raises(HarpError, match=r"The loss became (nan|inf) in epoch 1, between steps 0 and 2. Lower the"):
        fit(trainer, epochs=3, batch_size=24, callbacks=[StopOnNaN()])
    fit(trainer_of(classifier()), callbacks=[StopOnNaN()])


@pytest.mark.parametrize("compiled", [False, True])
def test_it_is_found_within_the_epoch(classifier, trainer_of, fit, compiled):
    trainer = trainer_of(classifier(), "natural", None, compile={"run_eagerly": not compiled})
    stop = StopOnNaN(lambda: "run/checkpoints/epoch_0_step_2", every=2)
    expected = (
        r"The weights of .*kernel became infinite or NaN in epoch 1, between steps 2 and 4\. "
        r"Lower the learning rate, or use a longer warm-up\. "
        r"The last checkpoint from before is run/checkpoints/epoch_0_step_2\."
    )
    with pytest.raises(HarpError, match=expected):
        fit(trainer, epochs=2, batch_size=4, callbacks=[stop, PoisonAfter(step=3)])
    assert int(trainer.steps) == 4  # of 12


def test_weights_are_looked_at_before_the_next_step_shows_them_in_the_loss(classifier, trainer_of, fit):
    poison, stop = PoisonAfter(step=2), StopOnNaN(every=2)
    message = r"The weights of .*kernel became infinite or NaN in epoch 1, between steps 0 and 2"
    with pytest.raises(HarpError, match=message):
        fit(trainer_of(classifier(), "natural", None), batch_size=4, callbacks=[poison, stop])


def test_no_checkpoint_holds_a_number_that_is_none(classifier, trainer_of, fit, tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    poison, checkpoint = PoisonAfter(step=3), Checkpoint(store, minutes=0)
    callbacks = [StopOnNaN(store.latest, every=6), poison, checkpoint]
    with pytest.raises(HarpError, match=r"before is .*epoch_0+_step_0*2\.$"):
        fit(trainer_of(classifier(), "natural", None), batch_size=4, callbacks=callbacks)
    position, arrays = store.newest()
    assert position == Position(0, 2)
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_validation_loss_that_is_no_number_ends_the_training(classifier, trainer_of):
    trainer = trainer_of(classifier())
    stop = StopOnNaN()
    stop.set_model(trainer)
    stop.on_epoch_begin(2)
    with pytest.raises(HarpError, match="The validation loss became inf in epoch 3, between steps 0 and 0"):
        stop.on_epoch_end(2, {"loss": 1.0, "val_loss": np.array([math.inf])})


def test_it_looks_only_so_often(classifier, trainer_of, fit, monkeypatch):
    looks = []
    monkeypatch.setattr(StopOnNaN, "check", lambda self, logs: looks.append(int(self.model.steps)))
    fit(trainer_of(classifier(), "natural", None), epochs=2, batch_size=4, callbacks=[StopOnNaN(every=5)])
    assert looks == [5, 10, 12, 17, 22, 24]


def test_not_finite_names_the_variables(pruned, trainer_of):
    trainer = trainer_of(pruned())
    assert not_finite(trainer) == []
    logit = pruned_kernels(trainer.network)[0].scores.logit
    logit.assign(math.inf)
    assert not_finite(trainer) == [logit.path]


# Collapse ----------------------------------------------------------------------------------------------------------


def epochs_of(**figures) -> list[dict]:
    """The epochs of a stage from lists of figures."""
    return [{"epoch": epoch, "logs": dict(zip(figures, values))} for epoch, values in enumerate(zip(*figures.values()))]


def robust(train, validation, natural=None) -> list[dict]:
    natural = natural or [0.8] * len(train)
    return epochs_of(adversarial_accuracy=train, val_adversarial_accuracy=validation, val_natural_accuracy=natural)


def test_a_collapse_is_named():
    (finding,) = collapse(robust([0.4, 0.5, 0.9], [0.38, 0.45, 0.02]))
    assert finding.watchdog == "collapse"
    assert "fell from 45.0 % in epoch 2 to 2.0 % in epoch 3" in finding.text
    assert "rose from 50.0 to 90.0 %" in finding.text and "best epoch is kept" in finding.text


@pytest.mark.parametrize(
    "train, validation, warns",
    [
        ([0.4, 0.5], [0.40, 0.21], False),  # neither 20 points nor half
        ([0.4, 0.5], [0.40, 0.19], True),  # half
        ([0.7, 0.8], [0.70, 0.49], True),  # 20 points
        ([0.7, 0.8], [0.70, 0.51], False),
        ([0.7, 0.6], [0.70, 0.10], False),  # training suffers too: no overfitting, but pruning
        ([0.5, 0.4, 0.6], [0.6, 0.1, 0.6], False),  # recovered
    ],
)
def test_only_a_collapse_is_one(train, validation, warns):
    assert bool(collapse(robust(train, validation))) == warns


def test_a_network_that_suffers_as_a_whole_has_not_collapsed():
    train, validation = [0.60, 0.61], [0.57, 0.36]
    assert not collapse(robust(train, validation, natural=[0.72, 0.45]))
    assert collapse(robust(train, validation, natural=[0.72, 0.70]))


def test_training_without_attack_or_validation_cannot_collapse():
    assert not collapse(epochs_of(natural_accuracy=[0.9, 0.1]))
    assert not collapse(epochs_of(val_adversarial_accuracy=[0.9, 0.1]))
    assert not collapse(epochs_of(adversarial_accuracy=[0.1, 0.9], val_adversarial_accuracy=[None, None]))


# Rates -------------------------------------------------------------------------------------------------------------


def sizes(hw_loss, gamma=0.01) -> list[dict]:
    return epochs_of(hw_loss=hw_loss, gamma=[gamma * (e + 1) for e in range(len(hw_loss))])


def test_a_target_that_will_be_missed_is_said_in_time_with_a_larger_gamma():
    (finding,) = missed_target(sizes([9.0, 8.9, 8.5]), epochs=6)
    assert "by 850.0 % (L_hw 8.5000) after epoch 3 of 6, and by 890.0 % the epoch before" in finding.text
    assert "--gamma, 0.07 for instance" in finding.text  # 8.5 in 3 epochs is 7 times 0.4 an epoch


@pytest.mark.parametrize(
    "hw_loss, epochs, warns",
    [
        ([9.0, 8.9], 6, False),  # too early to tell
        ([9.0, 6.0, 3.1], 6, False),  # will arrive
        ([9.0, 8.0, 8.5], 6, True),  # wrong way
        ([9.0, 0.0, 0.009], 6, False),  # arrived; it wavers about the target
        ([9.0, 5.0, 4.0], 3, False),  # the stage is over: the projection is said then
        ([9.0], 2, False),
    ],
)
def test_only_rates_that_miss_are_said_to(hw_loss, epochs, warns):
    assert bool(missed_target(sizes(hw_loss), epochs)) == warns


@pytest.mark.parametrize("hw_loss, gamma", [([9.0, 9.0, 9.5], "0.1"), ([9.0, 6.0, 4.1], "0.02")])
def test_the_proposed_gamma_is_twice_to_ten_times_the_present(hw_loss, gamma):
    (finding,) = missed_target(sizes(hw_loss), epochs=5)
    assert f"--gamma, {gamma} for instance" in finding.text


# Layers ------------------------------------------------------------------------------------------------------------


def test_layers_of_which_hardly_anything_is_left():
    table = {
        "a/kernel": {"weights": 144, "kept": 9, "rate": 0.06},
        "b/kernel": {"weights": 144, "kept": 10, "rate": 0.07},
        "tiny/kernel": {"weights": 4, "kept": 4, "rate": 1.0},
        "c/inputs": {"weights": 90, "kept": 9, "rate": 0.1, "channels": 10, "kept_channels": 1},
        "d/inputs": {"weights": 90, "kept": 18, "rate": 0.2, "channels": 10, "kept_channels": 2},
        "grey/inputs": {"weights": 9, "kept": 9, "rate": 1.0, "channels": 1, "kept_channels": 1},
    }
    found = dying_layers(table)
    assert [finding.subject for finding in found] == ["a/kernel", "c/inputs"]
    assert "a/kernel keeps 9 of 144 weights" in found[0].text and "--rate_bounds=a/kernel=0.1:" in found[0].text
    assert "c/inputs keeps 1 of 10 channels" in found[1].text


# The callback ------------------------------------------------------------------------------------------------------


def watched(trainer, run_dir, logs, epochs=9, first=0) -> list[str]:
    """What a watchdog says over epochs with these figures, whose lines go to metrics.jsonl."""
    said: list[str] = []
    watchdog = Watchdog(run_dir, "prune", epochs, said.append)
    log = MetricsLog(run_dir, "prune", [watchdog])
    for callback in (watchdog, log):
        callback.set_model(trainer)
        callback.on_train_begin()
    for epoch, figures in enumerate(logs, first):
        for callback in (watchdog, log):
            callback.on_epoch_begin(epoch)
        for callback in (watchdog, log):
            callback.on_epoch_end(epoch, figures)
    return said


def test_a_warning_is_said_once_and_written_down_even_over_an_interruption(pruned, trainer_of, tmp_path):
    trainer = trainer_of(pruned(target_sparsity=0.5))
    logs = [entry["logs"] for entry in robust([0.4, 0.5, 0.8, 0.9], [0.4, 0.5, 0.1, 0.1])]
    said = watched(trainer, tmp_path, logs[:3]) + watched(trainer, tmp_path, logs[3:], first=3)
    assert len(said) == 1 and said[0].startswith("WARNING (collapse) Robust accuracy collapsed")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [len(line.get("warnings", [])) for line in lines] == [0, 0, 1, 0]
    assert Finding(**lines[2]["warnings"][0]).text in said[0]


def test_what_is_known_of_the_epochs_before_an_interruption_counts(pruned, trainer_of, tmp_path):
    logs = [entry["logs"] for entry in robust([0.4, 0.5, 0.8], [0.4, 0.5, 0.1])]
    trainer = trainer_of(pruned())
    assert not watched(trainer, tmp_path, logs[:2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "pru\n')  # and the power went
    assert watched(trainer, tmp_path, logs[2:], first=2)


def test_layers_are_watched_where_rates_are_learned(pruned, trainer_of, set_rates, tmp_path):
    network = pruned(target_sparsity=0.9)
    set_rates(network, 0.02)
    assert [row["kept"] for row in rate_table(network).values()] == [4, 1]
    said = watched(trainer_of(network), tmp_path / "a", [{"hw_loss": 0.0, "gamma": 0.1}])
    assert [line.split(" keeps")[0] for line in said] == [
        "WARNING (dying_layer) hidden/kernel",
        "WARNING (dying_layer) logits/kernel",
    ]
    harp_tf.set_stage(network, "finetune")
    assert not watched(trainer_of(network), tmp_path / "b", [{"hw_loss": 0.0, "gamma": 0.1}])


def test_a_healthy_training_hears_nothing(pruned, trainer_of, fit, data, tmp_path):
    said: list[str] = []
    watchdog = Watchdog(tmp_path, "prune", 4, said.append)
    callbacks = [StopOnNaN(every=1), watchdog, MetricsLog(tmp_path, "prune", [watchdog])]
    history = fit(trainer_of(pruned()), epochs=4, batch_size=16, gamma=1.0, callbacks=callbacks, validation_data=data)
    assert history["hw_loss"][-1] < 0.01 and said == []
