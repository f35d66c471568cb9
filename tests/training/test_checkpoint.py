"""A training that ended at any step and goes on from its checkpoints ends as if nothing had happened."""

import json
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.losses import FreeAdversarialTraining
from harp_tf.training import Checkpoint, CheckpointStore, Interrupted, Interruption, KeepBest, MetricsLog, Position
from harp_tf.types import HarpError

EPOCHS, STEPS, BATCH = 2, 3, 8


class Killed(Exception):
    pass


class KillAfter(keras.callbacks.Callback):
    """Ends the training by an exception once so many steps were made, or before the given event after them."""

    def __init__(self, steps, event="on_train_batch_end"):
        super().__init__()
        self.left = steps
        self.event = event

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        self._at("on_train_batch_end")

    def on_test_begin(self, logs=None):
        self._at("on_test_begin")

    def on_epoch_end(self, epoch, logs=None):
        self._at("on_epoch_end")

    def _at(self, event):
        if self.left <= 0 and event == self.event:
            raise Killed


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dropout(0.3, name="dropout"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def trainer_of(
    loss="pgd", mode="harp", granularity="weight", sparsity=0.8, stage="prune", optimizer="sgd", eager=True
):  # eager is faster for a few steps
    model = network()
    if stage != "pretrain":
        skip = "logits" if granularity == "weight" else ()
        model = harp_tf.prune(
            model, sparsity, mode=mode, granularity=granularity, channel_multiple=1, skip=skip, verbose=False
        )
    if stage == "finetune":
        harp_tf.project_to_budget(model)
        harp_tf.set_stage(model, "finetune")
    trainer = harp_tf.AdversarialModel(model, loss, PGD(eps=0.1, steps=1), weight_decay=1e-3, seed=11)
    rate = keras.optimizers.schedules.CosineDecay(0.05, EPOCHS * STEPS)
    optimizers = {"sgd": keras.optimizers.SGD(rate, momentum=0.9), "adam": keras.optimizers.Adam(rate)}
    trainer.compile(optimizers[optimizer], run_eagerly=eager)
    return trainer


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    count = STEPS * BATCH
    return generator.uniform(size=(count, 6, 6, 1)).astype("float32"), (np.arange(count) % 3).astype("int32")


def fit(trainer, images, folder, *killers, minutes=0.0, interruption=None, say=print):
    """Trains from the newest checkpoint of a folder on, and returns KeepBest."""
    best, log = KeepBest(), MetricsLog(folder, "prune")
    store = CheckpointStore(folder / "checkpoints", say=say)
    checkpoint = Checkpoint(store, minutes, best=best, others={"log": log}, interruption=interruption)
    start = checkpoint.start
    lines = checkpoint.state_of("log").get("lines", np.array([], np.uint8))
    (folder / "metrics.jsonl").write_bytes(lines.tobytes())
    data = tf.data.Dataset.from_tensor_slices(images).batch(BATCH).repeat().skip(start.epoch * STEPS + start.step)
    trainer.fit(
        data,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        initial_epoch=start.epoch,
        initial_step=start.step,
        validation_data=tf.data.Dataset.from_tensor_slices(images).batch(BATCH),
        verbose=0,
        callbacks=[
            best,
            *([harp_tf.StepwiseRegularization(0.05)] if trainer.learns_rates else []),
            log,
            *killers,
            checkpoint,
        ],
    )
    return best


def outcome(trainer, folder, best) -> dict:
    variables = [*trainer.variables, *trainer.optimizer.variables]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "variables": [keras.ops.convert_to_numpy(variable).tobytes() for variable in variables],
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "best": (best.best, best.best_epoch, best.projected),
    }


CASES = {
    "pretrain, slow": {"stage": "pretrain"},
    "pgd": {},
    "gamma frozen within": {"sparsity": 0.2},
    "free, slow": {"loss": FreeAdversarialTraining(batch_size=BATCH, replays=2)},
    "natural, slow": {"loss": "natural", "stage": "pretrain", "optimizer": "adam"},
    "score": {"mode": "score"},
    "channels, slow": {"granularity": "channel", "sparsity": 0.3},
    "finetune, adam, trades, slow": {"stage": "finetune", "optimizer": "adam", "loss": "trades"},
    "compiled, slow": {"eager": False},
    "free, compiled, slow": {"loss": FreeAdversarialTraining(batch_size=BATCH, replays=2), "eager": False},
}
SLOW = [pytest.param(case, marks=pytest.mark.slow if "slow" in case else ()) for case in CASES]


def trained_at_once(case, images, folder) -> dict:
    folder.mkdir()
    whole = trainer_of(**CASES[case])
    return outcome(whole, folder, fit(whole, images, folder, minutes=10))


@pytest.mark.parametrize("case", SLOW)
def test_a_training_killed_within_an_epoch_ends_with_the_same_bits(case, images, tmp_path):
    expected = trained_at_once(case, images, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(trainer_of(**CASES[case]), images, tmp_path, KillAfter(STEPS + 2))
    assert CheckpointStore(tmp_path / "checkpoints").newest()[0] == Position(1, 1)
    resumed = trainer_of(**CASES[case])
    found = outcome(resumed, tmp_path, fit(resumed, images, tmp_path))
    assert found["metrics"] == expected["metrics"] and len(expected["metrics"]) == EPOCHS
    assert found == expected


@pytest.mark.parametrize("together", [2, 4])
def test_the_first_epoch_may_begin_within_steps_that_run_together(images, together):
    trainer = trainer_of(stage="pretrain")
    trainer.compile("sgd", steps_per_execution=together)
    data = tf.data.Dataset.from_tensor_slices(images).batch(BATCH).repeat()
    trainer.fit(data, epochs=2, steps_per_epoch=8, initial_step=4, verbose=0)
    assert int(trainer.steps) == 12


@pytest.mark.slow
def test_killed_again_and_again_at_other_events(images, tmp_path):
    expected = trained_at_once("pgd", images, tmp_path / "whole")
    for kill in (
        KillAfter(1),  # before the first checkpoint
        KillAfter(STEPS, "on_test_begin"),
        KillAfter(1, "on_epoch_end"),  # its line is written, its checkpoint is not
        KillAfter(STEPS - 1),
        KillAfter(STEPS, "on_epoch_end"),
    ):
        with pytest.raises(Killed):
            fit(trainer_of(), images, tmp_path, kill)
    for _ in range(2):  # the second time there is nothing left to train
        resumed = trainer_of()
        assert outcome(resumed, tmp_path, fit(resumed, images, tmp_path)) == expected


def test_the_one_before_a_damaged_one_gives_the_same_bits(images, tmp_path):
    expected = trained_at_once("pgd", images, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(trainer_of(), images, tmp_path, KillAfter(2 * STEPS))
    newest = tmp_path / "checkpoints" / "epoch_0001_step_0000002" / "arrays.npz"
    newest.write_bytes(newest.read_bytes()[:-7])
    lines = []
    resumed = trainer_of()
    assert outcome(resumed, tmp_path, fit(resumed, images, tmp_path, say=lines.append)) == expected
    assert "epoch_0001_step_0000002 is damaged and left out" in lines[0] and len(lines) == 1


def test_checkpoints_of_another_training_are_refused(images, tmp_path):
    with pytest.raises(Killed):
        fit(trainer_of(), images, tmp_path, KillAfter(2))
    with pytest.raises(HarpError, match="of another network, loss or optimiser.*--restart"):
        fit(trainer_of(optimizer="adam"), images, tmp_path)


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_saves_before_the_next_step_and_ends(number, status, images, tmp_path):
    class Signal(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                signal.raise_signal(number)

    before = signal.getsignal(number)
    interruption = Interruption()
    with pytest.raises(SystemExit) as ended, interruption.watched(), interruption.deferred():
        fit(trainer_of(), images, tmp_path, Signal(), minutes=10, interruption=interruption)
    assert isinstance(ended.value, Interrupted) and ended.value.code == status
    assert ended.value.where == "after epoch 0, step 2"
    assert signal.getsignal(number) == before
    expected = trained_at_once("pgd", images, tmp_path / "whole")
    resumed = trainer_of()
    assert outcome(resumed, tmp_path, fit(resumed, images, tmp_path)) == expected


def test_short_epochs_are_not_all_saved_and_the_last_one_is(images, tmp_path, monkeypatch):
    saved = []

    def save(store, position, arrays, best=False):
        saved.append(position)
        store_save(store, position, arrays, best)

    store_save = CheckpointStore.save
    monkeypatch.setattr(CheckpointStore, "save", save)
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setitem(globals(), "EPOCHS", 4)
    fit(trainer_of("natural", stage="pretrain"), images, tmp_path, minutes=10**6)
    # The first one costs a tick of this clock, and so may come again after 50.
    assert saved == [Position(1), Position(4)]


def test_the_optimiser_of_mixed_precision_is_saved_with_its_scale():
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    trainer = harp_tf.AdversarialModel(network(), "natural")
    trainer.compile(keras.optimizers.LossScaleOptimizer(inner))
    trainer.build_optimizer()
    names = [variable.path for variable in trainer.optimizer.variables]
    assert any("dynamic_scale" in name for name in names) and any("momentum" in name for name in names)


def test_random_states_are_among_the_variables():
    assert any("seed" in variable.path for variable in trainer_of().variables)
