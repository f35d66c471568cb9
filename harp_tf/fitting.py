"""One training of a run: a network, for the epochs of one stage, with the run's loss, attack, data and records."""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from harp_tf import attacks, compression, data, losses, training
from harp_tf.config import RunConfig
from harp_tf.run_dir import CHANNEL_PART, TRAINING_STAGES, RunDirectory
from harp_tf.types import HarpError

_EVALUATION_BATCH = 256
_JIT = {"auto": "auto", "on": True, "off": False}


class Fitting:
    """Trains networks as the settings of a run say.

    Args:
        config: the settings.
        splits: the data.
        directory: gets metrics.jsonl, tensorboard/ and checkpoints/.
        say: receives lines of text for the user.
        interruption: asks to save and end.
        strategy: in whose scope the networks are made; default: one device.
    """

    def __init__(
        self,
        config: RunConfig,
        splits: data.DataSplits,
        directory: RunDirectory,
        say: Callable[[str], None] = print,
        interruption: training.Interruption | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.config, self.data, self.directory, self.say = config, splits, directory, say
        self.interruption = interruption or training.Interruption()
        self.strategy = strategy or tf.distribute.get_strategy()
        self._votes = training.Votes(self.strategy) if training.several_workers(self.strategy) else None
        self.attack = attacks.PGD(
            eps=config.eps, norm=config.norm, step_size=config.attack_step_size, steps=config.attack_steps
        )

    def fit(
        self,
        network: keras.Model,
        stage: str,
        epochs: int,
        learning_rate: float,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        trainer_of: Callable[..., training.AdversarialModel] = training.AdversarialModel,
    ) -> training.KeepBest:
        """Trains a network, which has the weights of its best epoch afterwards.

        It goes on from the newest checkpoint of the training if there is one.

        Args:
            network: what to train: dense, or wrapped and in the stage that says which variables learn.
            stage: a training stage or `CHANNEL_PART`; names the records and keys the random numbers.
            epochs: number of epochs.
            learning_rate: the first of the schedule's.
            callbacks: those of the stage.
            trainer_of: the training to make of the network, called like `AdversarialModel`.

        Returns:
            The callback that chose the epoch.

        Raises:
            HarpError: if the training fails.
            Interrupted: a signal has ended it, and its state is saved.
        """
        synchronized = training.synchronized(network) if self.config.sync_batch_norm else contextlib.nullcontext()
        with training.computing_in(network, self.config.precision), synchronized:
            replicas = self.strategy.num_replicas_in_sync
            if replicas > 1 and training.local_statistics(network):
                self.say(
                    f"WARNING: batch normalisation sees {self.config.batch_size // replicas} images at a time, those "
                    "of its device, so this is another training than on one. --sync_batch_norm makes it the same."
                )
            return self._fit(network, stage, epochs, learning_rate, callbacks, trainer_of)

    def _fit(self, network, stage, epochs, learning_rate, callbacks, trainer_of) -> training.KeepBest:
        c = self.config
        split = self.data.train
        steps = split.steps_per_epoch(c.batch_size)
        part = c.batch_size // c.accumulate
        # The schedule counts updates, and the loss free makes several of each batch.
        updates = steps * (c.replays if c.loss == "free" else 1)
        seed = c.seed * len(TRAINING_STAGES) + TRAINING_STAGES.index("prune" if stage == CHANNEL_PART else stage)
        trainer = trainer_of(
            network,
            losses.get(c.loss, beta=c.beta, batch_size=c.batch_size, replays=c.replays),
            self.attack,
            weight_decay=c.weight_decay,
            seed=seed,
            accumulate=c.accumulate,
        )
        warmup = round(c.warmup_epochs * updates) if stage == "pretrain" else 0
        rate = compression.LearningRate(learning_rate, epochs * updates, c.schedule, warmup)
        if c.optimizer == "sgd":
            optimizer = keras.optimizers.SGD(rate, momentum=c.momentum)
        else:
            optimizer = keras.optimizers.Adam(rate)
        trainer.compile(optimizer, jit_compile=_JIT[c.jit])
        trainer.build_optimizer()
        # Beside the last ones the best is kept, and one is being written.
        needed = training.training_bytes(trainer, copies=c.checkpoint_keep + 2)
        training.require_disk(self.directory.path, needed, f"The stage {stage}")
        watchdogs: list[training.Watchdog | training.WatchMemory] = [
            training.Watchdog(self.directory.path, stage, epochs, self.say),
            training.WatchMemory(epochs, self.say),
        ]
        best, log = training.KeepBest(), training.MetricsLog(self.directory.path, stage, watchdogs)
        store = training.CheckpointStore(self.directory.checkpoints(stage), c.checkpoint_keep, self.say)
        checkpoint = training.Checkpoint(
            store,
            c.checkpoint_minutes,
            best=best,
            others={"log": log},
            interruption=self.interruption,
            votes=self._votes,
        )
        start = checkpoint.start
        first_step = start.epoch * steps + start.step
        if start > training.Position():
            self.say(f"{stage} goes on from its checkpoint after epoch {start.epoch} and {start.step} steps.")
        if self._votes is not None and len(set(self._votes(first_step))) > 1:
            raise HarpError(
                f"The workers do not find the same checkpoint of the stage {stage}. The run directory "
                f"{self.config.run_dir} must be one that all of them see when they start."
            )
        lines = checkpoint.state_of("log").get("lines", np.array([], np.uint8))
        self.directory.restore_metrics(stage, lines.tobytes())
        batches = functools.partial(split.training_batches, c.batch_size, seed=seed, first_step=first_step)
        several = self._votes is not None
        interactive = sys.stdout.isatty()
        with self.interruption.deferred():
            trainer.fit(
                training.RowsOfBatches(lambda rows: batches(rows=rows), c.batch_size) if several else batches(),
                epochs=epochs,
                steps_per_epoch=steps,
                initial_epoch=start.epoch,
                initial_step=start.step,
                validation_data=self.data.validation.batches(_EVALUATION_BATCH if c.accumulate == 1 else part),
                shuffle=False,
                verbose=1 if interactive else 0,
                callbacks=[
                    training.StopOnNaN(store.latest),
                    best,
                    *callbacks,
                    *watchdogs,
                    log,
                    *([] if interactive else [training.EpochLine(stage, epochs, self.say)]),
                    checkpoint,
                ],
            )
        if best.best_epoch is not None:
            why = "the best on the validation split" if trainer.chooses_epoch else "the last, as the method has it"
            self.say(f"Kept epoch {best.best_epoch + 1} of {epochs}, {why}.")
        return best
