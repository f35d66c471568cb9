"""One training of a run: a network, for the epochs of one stage, with the run's loss, attack, data and records."""

import sys
from collections.abc import Callable, Sequence

import keras

from harp_tf import attacks, compression, data, losses, training
from harp_tf.config import RunConfig
from harp_tf.run_dir import CHANNEL_PART, TRAINING_STAGES, RunDirectory

_EVALUATION_BATCH = 256


class Fitting:
    """Trains networks as the settings of a run say.

    Args:
        config: the settings.
        splits: the data.
        directory: gets metrics.jsonl and tensorboard/.
        say: receives lines of text for the user.
    """

    def __init__(
        self, config: RunConfig, splits: data.DataSplits, directory: RunDirectory, say: Callable[[str], None] = print
    ):
        self.config, self.data, self.directory, self.say = config, splits, directory, say
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
    ) -> training.KeepBest:
        """Trains a network, which has the weights of its best epoch afterwards.

        Args:
            network: what to train: dense, or wrapped and in the stage that says which variables learn.
            stage: a training stage or `CHANNEL_PART`; names the records and keys the random numbers.
            epochs: number of epochs.
            learning_rate: the first of the schedule's.
            callbacks: those of the stage.

        Returns:
            The callback that chose the epoch.

        Raises:
            HarpError: if the training fails.
        """
        c = self.config
        split = self.data.train
        steps = split.steps_per_epoch(c.batch_size)
        # The schedule counts updates, and the loss free makes several of each batch.
        updates = steps * (c.replays if c.loss == "free" else 1)
        seed = c.seed * len(TRAINING_STAGES) + TRAINING_STAGES.index("prune" if stage == CHANNEL_PART else stage)
        trainer = training.AdversarialModel(
            network,
            losses.get(c.loss, beta=c.beta, batch_size=c.batch_size, replays=c.replays),
            self.attack,
            weight_decay=c.weight_decay,
            seed=seed,
        )
        warmup = round(c.warmup_epochs * updates) if stage == "pretrain" else 0
        rate = compression.LearningRate(learning_rate, epochs * updates, c.schedule, warmup)
        if c.optimizer == "sgd":
            optimizer = keras.optimizers.SGD(rate, momentum=c.momentum)
        else:
            optimizer = keras.optimizers.Adam(rate)
        trainer.compile(optimizer)
        best = training.KeepBest()
        interactive = sys.stdout.isatty()
        trainer.fit(
            split.training_batches(c.batch_size, seed=seed),
            epochs=epochs,
            steps_per_epoch=steps,
            validation_data=self.data.validation.batches(_EVALUATION_BATCH),
            shuffle=False,
            verbose=1 if interactive else 0,
            callbacks=[
                training.StopOnNaN(),
                best,
                *callbacks,
                training.MetricsLog(self.directory.path, stage),
                *([] if interactive else [training.EpochLine(stage, epochs, self.say)]),
            ],
        )
        if best.best_epoch is not None:
            self.say(f"Kept epoch {best.best_epoch + 1} of {epochs}, the best on the validation split.")
        return best
