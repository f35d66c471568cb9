"""The gamma schedule, the choice of the best epoch, records of a training."""

import errno
import json
import os
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.compression import LearningRate
from harp_tf.layers import pruned_kernels, rate_table
from harp_tf.training import EpochLine, KeepBest, MetricsLog, StepwiseRegularization
from harp_tf.types import HarpError

# From the authors' code: gamma_0, L_hw at the end of each epoch, gamma used in that epoch.
GAMMA_TABLES = [
    (
        0.01,
        [9.0, 4.0, 1.0, 0.2, 0.01, 6e-5, 4e-5, 0.0, 0.0, 0.3, 0.0],
        [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.07, 0.07, 0.07, 0.07],
    ),
    (0.1, [0.0, 0.5, 0.2, 0.0], [0.1, 0.1, 0.1, 0.1]),
    (0.01, [5.0, 3.0, 1.0], [0.01, 0.02, 0.03]),
    (0.01, [4.999999873689376e-05, 1.0, 1.0], [0.01, 0.01, 0.01]),
]


def kept(network) -> int:
    return sum(row["kept"] for row in rate_table(network).values())


def logits(network) -> list[float]:
    return [float(keras.ops.convert_to_numpy(k.scores.logit)) for k in pruned_kernels(network)]


def test_keep_best_begins_anew_with_each_training(classifier, trainer_of, fit, data, weights_of):
    best = KeepBest()
    first = classifier(0)
    fit(trainer_of(first, "natural"), 20, [best], validation_data=data)
    good = best.best
    second = classifier(1)
    fit(trainer_of(second, "natural", learning_rate=1e-4), 1, [best], validation_data=data)
    assert best.best_epoch == 0 and best.best < good
    assert not np.array_equal(first.get_weights()[0], second.get_weights()[0])


# StepwiseRegularization -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("initial, hw_losses, gammas", GAMMA_TABLES)
def test_gamma_rises_per_epoch_and_freezes_for_good(initial, hw_losses, gammas):
    model = types.SimpleNamespace(
        gamma=keras.Variable(0.0),
        gamma_frozen=keras.Variable(False, dtype="bool"),
        hw_loss=lambda: tf.constant(0.0),  # before the first epoch nobody asks
    )
    callback = StepwiseRegularization(initial)
    callback.set_model(model)
    used = []
    for epoch, hw_loss in enumerate(hw_losses):
        callback.on_epoch_begin(epoch)
        used.append(float(keras.ops.convert_to_numpy(model.gamma)))
        model.hw_loss = lambda hw_loss=hw_loss: tf.constant(hw_loss)
        callback.on_epoch_end(epoch)
    np.testing.assert_allclose(used, gammas, rtol=1e-6)


@pytest.mark.parametrize("best", [True, False])
def test_the_projection_at_the_end_of_a_fit_does_not_freeze_gamma(pruned, trainer_of, fit, data, set_rates, best):
    network = pruned(0.9)
    set_rates(network, 0.5)
    trainer = trainer_of(network, learning_rate=0.0)
    gammas = []
    for first in (0, 2):
        callbacks = [KeepBest()] if best else []
        history = fit(trainer, 2 + first, callbacks, 0.02, initial_epoch=first, validation_data=data)
        gammas += history["gamma"]
        set_rates(network, 0.5)
    np.testing.assert_allclose(gammas, [0.02, 0.04, 0.06, 0.08], rtol=1e-6)


def test_a_target_that_was_reached_stays_reached_for_the_next_fit(pruned, trainer_of, fit, set_rates):
    network = pruned(0.5)
    set_rates(network, 0.45)
    trainer = trainer_of(network, learning_rate=0.0)
    gammas = fit(trainer, 1, gamma=0.02)["gamma"] + fit(trainer, 3, gamma=0.02, initial_epoch=1)["gamma"]
    np.testing.assert_allclose(gammas, [0.02, 0.02, 0.02], rtol=1e-6)


def test_gamma_reaches_the_training(pruned, trainer_of, fit, set_rates):
    network = pruned(0.9)
    set_rates(network, 0.5)
    history = fit(trainer_of(network, learning_rate=1e-3), epochs=3, gamma=0.02)
    np.testing.assert_allclose(history["gamma"], [0.02, 0.04, 0.06], rtol=1e-6)
    penalties = np.array(history["loss"]) - history["robust_loss"]
    np.testing.assert_allclose(penalties, np.array(history["gamma"]) * history["hw_loss"], rtol=1e-3)


def test_rates_above_the_target_are_projected_at_the_end(pruned, trainer_of, fit, data, capsys, set_rates):
    network = pruned(0.9)
    set_rates(network, 0.5)
    callback = StepwiseRegularization(0.1)
    trainer_of(network, learning_rate=0.0).fit(*data, verbose=0, callbacks=[callback])
    assert kept(network) == 22  # floor(0.1 * 228)
    assert "were projected onto it" in capsys.readouterr().out


def test_rates_within_the_target_stay_as_they_are(pruned, trainer_of, data, capsys):
    network = pruned(0.5)
    before = logits(network)
    callback = StepwiseRegularization(0.1)
    trainer_of(network, learning_rate=0.0).fit(*data, verbose=0, callbacks=[callback])
    assert logits(network) == before
    assert capsys.readouterr().out == ""


def test_a_frozen_gamma_stays_in_the_next_fit(pruned, trainer_of, fit, set_rates):
    network = pruned(0.5)
    trainer = trainer_of(network, learning_rate=0.0)  # starts at 0.1, below the target
    assert fit(trainer, epochs=2, gamma=0.02)["gamma"] == pytest.approx([0.02, 0.02])
    set_rates(network, 0.9)
    assert fit(trainer, epochs=4, initial_epoch=2, gamma=0.02)["gamma"] == pytest.approx([0.02, 0.02])


@pytest.mark.parametrize("gamma", [0.0, -0.1, float("nan"), float("inf")])
def test_a_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(HarpError, match="gamma must be a positive number"):
        StepwiseRegularization(gamma)


def test_a_dense_network_has_no_gamma_to_drive(classifier, trainer_of, data):
    with pytest.raises(HarpError, match="whose network is pruned. Wrap the network first"):
        trainer_of(classifier()).fit(*data, verbose=0, callbacks=[StepwiseRegularization()])


def test_another_keras_model_has_no_gamma_to_drive(classifier, data):
    model = classifier()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(HarpError, match="StepwiseRegularization drives an AdversarialModel"):
        model.fit(*data, verbose=0, callbacks=[StepwiseRegularization()])


# KeepBest -------------------------------------------------------------------------------------------------------


def validated(network, figures) -> KeepBest:
    """Plays one validation per (adversarial, natural) accuracy; in epoch e all weights are e."""
    callback = KeepBest()
    callback.set_model(types.SimpleNamespace(network=network, chooses_epoch=True))
    callback.on_train_begin()
    for epoch, (adversarial, natural) in enumerate(figures):
        callback.on_epoch_begin(epoch)
        network.set_weights([np.full_like(weight, epoch) for weight in network.get_weights()])
        callback.on_test_begin()
        callback.on_test_end({"adversarial_accuracy": adversarial, "natural_accuracy": natural})
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    return callback


@pytest.mark.parametrize(
    "figures, best",
    [
        ([(0.3, 0.9), (0.5, 0.6), (0.4, 0.8)], 1),  # robust before accurate
        ([(0.5, 0.6), (0.5, 0.8), (0.5, 0.7)], 1),  # then accurate
        ([(0.5, 0.8), (0.5, 0.8), (0.4, 0.9)], 1),  # then late
        ([(0.0, 0.0)], 0),
    ],
    ids=["robust", "accurate", "late", "only"],
)
def test_the_best_epoch_is_kept(classifier, figures, best):
    network = classifier()
    callback = validated(network, figures)
    assert callback.best_epoch == best and callback.best == figures[best]
    assert all((weight == best).all() for weight in network.get_weights())


def test_without_an_attack_natural_accuracy_decides(classifier, trainer_of, fit, data):
    callback = KeepBest()
    fit(trainer_of(classifier(), "natural", attack=None), epochs=2, callbacks=[callback], validation_data=data)
    assert callback.best[0] == callback.best[1] > 0


def test_what_is_measured_and_kept_is_within_budget(pruned, trainer_of, fit, data, set_rates):
    network = pruned(0.9)
    set_rates(network, 0.5)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append(kept(network))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(kept(network))

    best = KeepBest()
    trainer = trainer_of(network, learning_rate=0.0)
    fit(trainer, callbacks=[best, Look()], validation_data=data)
    during, after = seen
    assert during == 22 and after > 100
    assert best.projected and kept(network) == 22
    # The kept weights are those that were measured.
    again = trainer.evaluate(*data, batch_size=48, return_dict=True, verbose=0)
    assert again["natural_accuracy"] == pytest.approx(best.best[1])
    assert again["adversarial_accuracy"] == pytest.approx(best.best[0])


def test_rates_within_budget_are_kept_as_they_are(pruned, trainer_of, fit, data):
    network = pruned(0.5)
    before = logits(network)
    best = KeepBest()
    fit(trainer_of(network, learning_rate=0.0), callbacks=[best], validation_data=data)
    assert not best.projected and logits(network) == before


def test_validation_does_not_disturb_the_training(pruned, trainer_of, fit, data, set_rates):
    histories = []
    for callbacks in ([], [KeepBest()]):
        network = pruned(0.9)
        set_rates(network, 0.5)
        history = fit(trainer_of(network), epochs=3, callbacks=callbacks, validation_data=data)
        histories.append({name: values for name, values in history.items() if not name.startswith("val_")})
    assert histories[0] == histories[1]


def test_an_epoch_without_validation_is_an_error(classifier, trainer_of, fit):
    with pytest.raises(HarpError, match="KeepBest .* Pass validation_data to fit"):
        fit(trainer_of(classifier()), callbacks=[KeepBest()])


def test_keep_best_needs_the_adversarial_model(classifier, data):
    model = classifier()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(HarpError, match="KeepBest needs a harp_tf.AdversarialModel, received Sequential"):
        model.fit(*data, verbose=0, callbacks=[KeepBest()])


# Records --------------------------------------------------------------------------------------------------------


def entries(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_logged_line_by_line(pruned, trainer_of, fit, data, tmp_path):
    network = pruned()
    dense = harp_tf.strip(network)
    run_dir = tmp_path / "new" / "run"
    fit(trainer_of(dense), epochs=2, callbacks=[MetricsLog(run_dir, "pretrain")], validation_data=data)
    history = fit(trainer_of(network), epochs=2, callbacks=[MetricsLog(run_dir, "prune")], validation_data=data)
    lines = entries(run_dir)
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        ("pretrain", 0),
        ("pretrain", 1),
        ("prune", 0),
        ("prune", 1),
    ]
    assert all(line["seconds"] > 0 for line in lines)
    assert "rates" not in lines[0]
    assert list(lines[-1]["rates"]) == ["hidden/kernel", "logits/kernel"]
    assert lines[-1]["rates"] == {path: row["rate"] for path, row in rate_table(network).items()}
    assert lines[-1]["logs"] == {name: values[-1] for name, values in history.items()} | {
        "learning_rate": pytest.approx(0.1)
    }
    assert {"loss", "natural_loss", "robust_loss", "hw_loss", "gamma", "rate", "natural_accuracy"} <= set(
        lines[-1]["logs"]
    )
    assert {"adversarial_accuracy", "val_natural_accuracy", "val_adversarial_accuracy"} <= set(lines[-1]["logs"])


def test_the_learning_rate_of_an_epoch_is_that_of_its_first_step(classifier, trainer_of, fit, tmp_path):
    schedule = LearningRate(0.1, total_steps=9, kind="cosine", final=0.0)
    optimizer = keras.optimizers.SGD(schedule)
    trainer = trainer_of(classifier(), "natural", optimizer=optimizer)
    fit(trainer, epochs=3, batch_size=16, callbacks=[MetricsLog(tmp_path, "pretrain")])
    logged = [line["logs"]["learning_rate"] for line in entries(tmp_path)]
    np.testing.assert_allclose(logged, [float(schedule(step)) for step in (0, 3, 6)], rtol=1e-6)


def test_figures_that_are_no_numbers_become_null(classifier, tmp_path):
    callback = MetricsLog(tmp_path, "pretrain")
    model = classifier()
    model.compile("sgd")
    callback.set_model(model)
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"loss": float("nan"), "natural_accuracy": 0.5})
    (entry,) = entries(tmp_path)
    assert entry["logs"]["loss"] is None and entry["logs"]["natural_accuracy"] == 0.5


def test_a_full_disk_is_a_clear_error(classifier, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    callback = MetricsLog(tmp_path, "pretrain")
    model = classifier()
    model.compile("sgd")
    callback.set_model(model)
    callback.on_epoch_begin(0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarpError, match=f"could not be written to {tmp_path}: No space left.*goes on from its last"):
        callback.on_epoch_end(0, {"loss": 0.5})


def test_tensorboard_shows_scalars_and_rates(pruned, trainer_of, fit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(trainer_of(pruned()), epochs=2, callbacks=[MetricsLog(tmp_path, "prune")])
    events = EventAccumulator(str(tmp_path / "tensorboard" / "prune"))
    events.Reload()
    tags = events.Tags()
    assert {*history, "learning_rate", "rate/hidden/kernel", "rate/logits/kernel", "rates"} <= set(
        tags["tensors"] + tags["scalars"] + tags["histograms"]
    )
    values = [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss")]
    assert [step for step, _ in values] == [0, 1]
    np.testing.assert_allclose([value for _, value in values], history["loss"], rtol=1e-6)


def test_one_line_per_epoch(pruned, classifier, trainer_of, fit, data):
    lines = []
    fit(trainer_of(pruned()), epochs=2, callbacks=[EpochLine("prune", 2, lines.append)], validation_data=data)
    assert len(lines) == 2
    assert lines[1].startswith("prune 2/2  loss ")
    for part in ("train natural", "validation natural", "adversarial", "gamma", "L_hw", "rate"):
        assert part in lines[1]
    fit(
        trainer_of(classifier(), "natural", attack=None),
        callbacks=[EpochLine("pretrain", 1, lines.append)],
    )
    assert "natural" in lines[2] and "adversarial" not in lines[2] and "gamma" not in lines[2]
