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
    strategies,
    training,
)
from harp_tf.config import RunConfig
from harp_tf.files import save_keras, write_json
from harp_tf.fitting import Fitting
from harp_tf.measure import Measurement
from harp_tf.run_dir import CHANNEL_PART, RunDirectory
from harp_tf.types import HarpError

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
        self.config = config
        self.say = say
        self._save_adversarial = save_adversarial
        self.directory = RunDirectory(config)
        self.dir = self.directory.path
        if self.directory.trains():
            self.directory.check()
        if "prune" in config.stages:
            # Read now: a file may be gone, or removed by --overwrite, when the stage begins.
            self._strategy = strategies.get(config.strategy)
        keras.utils.set_random_seed(config.seed)
        self.data = data.load(
            config.dataset,
            seed=config.seed,
            validation_fraction=config.validation_fraction,
            train_limit=config.train_limit,
            test_limit=config.test_limit,
            download=config.download,
            data_dir=config.data_dir,
        )
        self.fitting = Fitting(config, self.data, self.directory, say)
        self.final_attacks = measure.final_attacks(config, config.eps)
        self.network = self._starting_model() if self.directory.trains() else None
        self._check_network()

    def run(self) -> dict:
        """Runs the stages and returns the content of results.json ({} if nothing was evaluated).

        Raises:
            HarpError: if the run directory cannot be used, or a stage fails.
        """
        self.directory.prepare()
        steps = {
            "pretrain": self._pretrain,
            "prune": self._prune,
            "finetune": self._finetune,
            "export": self.export,
            "evaluate": self.evaluate,
        }
        for stage in self.config.stages:
            self.say(f"\n== {stage} ==")
            steps[stage]()
        results = self.directory.read_json("results.json")
        if results:
            self.say("\n" + report.results_table(results))
            self.say(report.warnings(results))
        report.write_plots(self.dir)
        self.say(f"\nReport: {report.write_report(self.dir)}")
        return results

    # Before the first step ------------------------------------------------------------------------------------

    def _starting_model(self) -> keras.Model:
        config, source = self.config, self.directory.source()
        if source is not None and not source.exists():
            raise HarpError(
                f"The stage {config.stages[0]} starts from {source}, which does not exist. Run the earlier stages too, "
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
        self._learn_masks("prune", "rates.json", self.config.strategy)
        self._save_pruned()
        save_keras(self.network, self.dir / "scored.keras")

    def _learn_masks(self, stage: str, file: str, strategy: str) -> None:
        callbacks = [] if self.config.mode == "score" else [training.StepwiseRegularization(self.config.gamma)]
        best = self.fitting.fit(
            self.network, stage, self.config.prune_epochs, self.config.prune_learning_rate, callbacks
        )
        if best.projected:
            self.say("The rates of the chosen epoch exceeded the target and were projected onto it.")
        self.say(layers.describe(self.network))
        write_json(self.dir / file, pruning.rates(self.network, strategy, best.projected))

    def _save_pruned(self) -> None:
        plain = layers.strip(self.network)
        if self.config.channels_first:  # the weights that went have left more channels that do nothing
            plain = compaction.compact(plain, verbose=False)
        save_keras(plain, self.dir / "pruned.keras")

    def _finetune(self) -> None:
        if not (self.dir / "rates.json").exists():  # it was pruned in another directory
            write_json(self.dir / "rates.json", pruning.rates(self.network, self.config.strategy, projected=False))
        layers.set_stage(self.network, "finetune")
        self.fitting.fit(self.network, "finetune", self.config.finetune_epochs, self.config.finetune_learning_rate)
        self._save_pruned()

    # Artefacts and figures ---------------------------------------------------------------------------------------

    def plain_models(self) -> dict[str, keras.Model]:
        """The plain models of the run directory, "dense" and "pruned", as far as they exist.

        Raises:
            HarpError: if there is none, or one cannot be read.
        """
        found = {}
        for name in ("dense", "pruned"):
            path = self.dir / f"{name}.keras"
            if path.exists():
                found[name], _ = models.load_or_build(str(path), self.data.input_shape, self.data.num_classes)
        if not found:
            raise HarpError(f"The run directory {self.dir} holds neither dense.keras nor pruned.keras. Train first.")
        return found

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
        )
        for name, model in self.plain_models().items():
            file = self.dir / TFLITE_FILES[name]
            tflite = (TFLITE_KEYS[name], file) if file.exists() else None
            results |= measurement.of_keras(name, model, self.dir / f"{name}.keras", tflite)
        for name, dense in (("pruned", "dense"), ("tflite_sparse", "tflite")):
            if name in results and dense in results:  # channels that are gone count as removed weights
                results[name]["sparsity"] = 1.0 - results[name]["nonzero"] / results[dense]["parameters"]
        write_json(self.dir / "results.json", {key: results[key] for key in _RESULTS if key in results})
        measurement.finish()


TFLITE_FILES = {"dense": "model.tflite", "pruned": "model_sparse.tflite"}
TFLITE_KEYS = {"dense": "tflite", "pruned": "tflite_sparse"}


def exported_line(written: deploy.ExportReport) -> str:
    """What was exported, for the user, in one line."""
    return (
        f"{written.path}: {written.file_bytes:,} bytes, {written.nonzero:,} of {written.parameters:,} weights not 0, "
        f"logits within {written.max_logit_difference:.1e} of the Keras model"
    )
