"""A run directory: from settings to a trained, pruned, exported and measured model."""

from collections.abc import Callable
from pathlib import Path

import keras

from harp_tf import (
    compaction,
    data,
    deploy,
    layers,
    measure,
    models,
    pruning,
    report,
    training,
)
from harp_tf.config import RunConfig
from harp_tf.files import save_keras, write_json
from harp_tf.fitting import Fitting
from harp_tf.measure import Measurement
from harp_tf.run_dir import CHANNEL_PART, TFLITE_FILES, TFLITE_KEYS, TRAINING_STAGES, RunDirectory
from harp_tf.types import HarpError
from harp_tf.workers import Workers

_RESULTS = ("dense", "pruned", "tflite", "tflite_sparse")


class Run:
    """One run in its directory.

    Args:
        config: the settings.
        say: receives lines of text for the user.
        save_adversarial: folder for all adversarial images of the evaluation; None keeps none.

    Raises:
        HarpError: if a setting, the data or the model cannot be used. Nothing is trained before all of them were
            checked.
    """

    def __init__(self, config: RunConfig, say: Callable[[str], None] = print, save_adversarial: Path | None = None):
        self.workers = Workers(config)
        self.config = config = self.workers.config
        self.say = say = say if self.workers.chief else lambda text: None
        self._save_adversarial = save_adversarial
        self.directory = RunDirectory(config, say)
        self.dir = self.directory.path
        finished = []
        if self.directory.trains():
            if "evaluate" in config.stages:
                measure.check_radii(config)
            finished = self.directory.check()
        else:
            self.directory.warn_of_unfinished()
        if "prune" in config.stages:
            # Read now: a file may be gone, or removed by --restart, when the stage begins.
            self._strategy = pruning.strategy_of(config)
        keras.utils.set_random_seed(config.seed)
        self.data = load_data(config)
        parts = ("training", self.data.train), ("validation", self.data.validation), ("test", self.data.test)
        counts = ", ".join(f"{part.num_examples:,} {name}" for name, part in parts)
        say(f"{config.dataset}: {counts} images of {self.data.num_classes} classes")
        self._images = self.data.record()
        if self.directory.trains():
            self.directory.warn_of_other_cut(self._images)
        else:
            self.directory.warn_of_other_data(self._images)
        self.interruption = training.Interruption()
        if self.directory.trains():  # else what a stored run names is not imported: it may be somebody else's
            for module in config.own_modules:
                models.import_module(module)
        strategy = self.workers.strategy
        self.fitting = Fitting(config, self.data, self.directory, say, self.interruption, strategy)
        self.final_attacks = measure.final_attacks(config, config.eps)
        begins = self.directory.trains() and config.stages[0] not in finished
        self.network = self._model_for(config.stages[0]) if begins else None
        self._check_network()

    def run(self) -> dict:
        """Runs the stages that are not finished and returns the content of results.json ({} if nothing was evaluated).

        Raises:
            HarpError: if the run directory cannot be used, or a stage fails.
            Interrupted: a signal has asked to end, and what was done is saved.
        """
        stage = self.config.stages[0]
        try:
            with self.workers.joined(), self.directory.locked(), self.interruption.watched():
                finished = self.directory.prepare(self._images)
                for stage in self.workers.stages:
                    if stage in finished:
                        self.say(f"\n== {stage}: finished before ==")
                        continue
                    self.say(f"\n== {stage} ==")
                    self._run_stage(stage)
                    self.directory.finish(stage)
                    self.interruption.check()
                if len(finished) == len(self.config.stages):
                    self.say("\nNothing is left to do of this run; --restart would train anew.")
                return self._report() if self.workers.chief else {}
        except training.Interrupted as signal:
            self.say(f"\n{signal.name}: stopped in {stage}, {signal.where}. The same command, no --restart, goes on.")
            raise

    def _run_stage(self, stage: str) -> None:
        steps = {
            "pretrain": self._pretrain,
            "prune": self._prune,
            "finetune": self._finetune,
            "export": self.export,
            "evaluate": self.evaluate,
        }
        if stage in TRAINING_STAGES:
            # From seed and file, as a run does that was interrupted before: nothing else of the past may decide.
            keras.utils.set_random_seed(self.config.seed)
            with self.workers.strategy.scope():
                self.network = self._model_for(stage)
                steps[stage]()
        else:
            steps[stage]()

    def _report(self) -> dict:
        results = self.directory.read_json("results.json")
        if results:
            self.say("\n" + report.results_table(results))
            self.say(report.warnings(results))
        self.say(f"\nReport: {report.write_report(self.dir)}")
        return results

    # Before the first step ------------------------------------------------------------------------------------

    def _model_for(self, stage: str) -> keras.Model:
        """The model that a training stage starts from."""
        config, source = self.config, self.directory.source(stage)
        if source is not None and not source.exists():
            raise HarpError(
                f"The stage {stage} starts from {source}, which does not exist. Run the earlier stages too, "
                "or name a run directory or .keras file with --init_from."
            )
        # A file has its size: what scaled the named model it was made from is not to be applied again.
        scaled = source is None or config.model.endswith(".keras")
        model, _ = models.load_or_build(
            config.model if source is None else str(source),
            self.data.input_shape,
            self.data.num_classes,
            width=config.width if scaled else None,
            depth=config.depth if scaled else None,
            seed=config.seed,
        )
        return model

    def _check_network(self) -> None:
        """Everything that could fail only after hours of training."""
        if self.network is None:
            return
        first, batch = self.config.stages[0], self.config.batch_size
        masked = bool(layers.pruned_kernels(self.network))
        if masked != (first == "finetune"):
            wanted, found = ("a pruned", "a dense") if first == "finetune" else ("a dense", "a pruned")
            raise HarpError(
                f"The stage {first} starts from {wanted} model, received {found} one: "
                f"{self.directory.source() or self.config.model}. A run directory has the dense one as dense.keras, "
                "the pruned one with its masks as scored.keras."
            )
        for images, labels in self.data.train.training_batches(batch, seed=self.config.seed).take(1):
            training.check_batch(self.network, images.numpy(), labels.numpy())
            if first != "pretrain" and (one := training.only_class(self.network, images.numpy(), labels.numpy())):
                self.say(one)
        if "prune" in self.config.stages:
            pruning.check(self.network, self.config, self._strategy)

    # Training ----------------------------------------------------------------------------------------------------

    def _pretrain(self) -> None:
        self.fitting.fit(self.network, "pretrain", self.config.pretrain_epochs, self.config.pretrain_learning_rate)
        save_keras(self.network, self.dir / "dense.keras")

    def _prune(self) -> None:
        if not (self.dir / "dense.keras").exists():
            save_keras(self.network, self.dir / "dense.keras")
        weights = layers.prunable_weights(self.network, self.config.skip)
        if self.config.channels_first:
            self.network = pruning.wrap_channels(self.network, self.config)
            self._learn_masks(CHANNEL_PART, "rates_channel.json", "uniform")
            self.network = pruning.without_channels(self.network)
        self.network = pruning.wrap(self.network, self.config, self._strategy, weights)
        self._learn_masks("prune", "rates.json", self.config.initial_strategy)
        self._warn_of_cut(self._save_pruned())
        save_keras(self.network, self.dir / "scored.keras")

    def _learn_masks(self, stage: str, file: str, strategy: str) -> None:
        method, projected = self.config.pruning_method, False
        if not method.one_shot:
            epochs, rate = self.config.stage_epochs["prune"], self.config.prune_learning_rate
            callbacks = [] if method.mode == "score" else [training.StepwiseRegularization(self.config.gamma)]
            projected = self.fitting.fit(self.network, stage, epochs, rate, callbacks, method.trainer).projected
        if projected:
            self.say("The rates of the chosen epoch exceeded the target and were projected onto it.")
        self.say(layers.describe(self.network))
        made = pruning.rates(self.network, self.config.method, strategy, projected)
        if made["cost_kept"] > made["budget"]:  # of a method of the user's
            raise HarpError(
                f"The method {made['method']} left {made['cost_kept']:,} {made['budget_counts']} where target_sparsity "
                f"permits {made['budget']:,}. Its masks must keep no more than their rates leave when the stage ends."
            )
        write_json(self.dir / file, made)

    def _save_pruned(self) -> keras.Model:
        plain = layers.strip(self.network)
        if self.config.channels_first:  # the weights that went have left more channels that do nothing
            plain = compaction.compact(plain, verbose=False)
        save_keras(plain, self.dir / "pruned.keras")
        return plain

    def _warn_of_cut(self, plain: keras.Model) -> None:
        if cut := compaction.cut_at(plain):
            self.say(
                f"warning: the network is cut in two at {', '.join(cut)}, which reads nothing that depends on the "
                "images: all of them get the same logits. Lower --target_sparsity, or leave more there with "
                f"--rate_bounds={cut[0]}=0.1: or --skip={cut[0]}."
            )

    def _finetune(self) -> None:
        if not (self.dir / "rates.json").exists():  # it was pruned in another directory
            c, scored = self.config, self.directory.source("finetune")
            made = pruning.rates(self.network, c.method, c.initial_strategy, False)
            write_json(self.dir / "rates.json", {**made, **pruning.origin(scored)})
        layers.set_stage(self.network, "finetune")
        epochs, rate = self.config.stage_epochs["finetune"], self.config.finetune_learning_rate
        if epochs:
            self.fitting.fit(self.network, "finetune", epochs, rate)
        self._save_pruned()

    # Artefacts and figures ---------------------------------------------------------------------------------------

    def plain_models(self) -> dict[str, keras.Model]:
        """The plain models of the run directory, "dense" and "pruned", as far as they exist and are to be measured.

        Raises:
            HarpError: if there is none, or one cannot be read.
        """
        names = [name for name in ("dense", "pruned") if (self.dir / f"{name}.keras").exists()]
        if not names:
            raise HarpError(f"The run directory {self.dir} holds neither dense.keras nor pruned.keras. Train first.")
        if "pruned" in names and not self.config.measure_dense:
            names = ["pruned"]
        return {name: self._plain(name) for name in names}

    def _plain(self, name: str) -> keras.Model:
        return models.load_or_build(str(self.dir / f"{name}.keras"), self.data.input_shape, self.data.num_classes)[0]

    def _dense_weights(self) -> int:
        """Weights in the kernels of the dense model, 0 if there is none."""
        path = self.dir / "dense.keras"
        if not path.exists():
            return 0
        return sum(weights for weights, _ in layers.kernel_nonzeros(models.load(path)).values())

    def export(self) -> None:
        """Writes model.tflite and model_sparse.tflite, each checked against its Keras model."""
        images = next(iter(self.data.validation.batches(64)))[0].numpy()
        for name, model in self.plain_models().items():
            path = self.dir / TFLITE_FILES[name]
            self.say(exported_line(deploy.export_tflite(model, path, sparse=name == "pruned", check_images=images)))

    def evaluate(self) -> None:
        """Measures every model and file on the test split and writes results.json, losing no earlier figures."""
        results = self.directory.read_json("results.json")
        for key, figures in results.items():
            if not isinstance(figures.get("robust_accuracy"), dict):
                raise HarpError(f"{self.dir / 'results.json'} lacks the robust_accuracy of {key}. Remove the file.")
        measurement = Measurement(
            self.config,
            self.data,
            earlier=results,
            threat=self.directory.threat(),
            say=self.say,
            state=self.dir / "evaluation",
            pictures=self.dir / "plots" / "adversarial_examples.png",
            save=self._save_adversarial,
            pulse=self.interruption.check,
        )
        for name, model in self.plain_models().items():
            file = self.dir / TFLITE_FILES[name]
            tflite = (TFLITE_KEYS[name], file) if file.exists() else None
            results |= measurement.of_keras(name, model, self.dir / f"{name}.keras", tflite)
        pairs = [("pruned", "dense"), ("tflite_sparse", "tflite")]
        unmeasured = 0 if all(dense in results for _, dense in pairs) else self._dense_weights()
        for name, dense in pairs:
            weights = results[dense]["parameters"] if dense in results else unmeasured
            if name in results and weights:  # channels that are gone count as removed weights
                results[name]["sparsity"] = 1.0 - results[name]["nonzero"] / weights
        write_json(self.dir / "results.json", {key: results[key] for key in _RESULTS if key in results})
        measurement.finish()


def load_data(config: RunConfig) -> data.DataSplits:
    """The data set that the settings name, cut as they say.

    Raises:
        HarpError: if there is none, or it is damaged.
    """
    return data.load(
        config.dataset,
        seed=config.cut_seed,
        validation_fraction=config.validation_fraction,
        train_limit=config.train_limit,
        test_limit=config.test_limit,
        download=config.download,
        data_dir=config.data_dir,
        class_names=config.class_names,
        augment=config.augment,
    )


def exported_line(written: deploy.ExportReport) -> str:
    """What was exported, for the user, in one line."""
    return (
        f"{written.path}: {written.file_bytes:,} bytes, {written.nonzero:,} of {written.parameters:,} weights not 0, "
        f"logits within {written.max_logit_difference:.1e} of the Keras model"
    )
