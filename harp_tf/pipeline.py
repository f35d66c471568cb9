"""A run directory: from settings to a trained, pruned, exported and measured model."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from harp_tf import attacks, compression, data, deploy, files, layers, losses, models, report, strategies, training
from harp_tf.config import RunConfig
from harp_tf.files import save_keras, write_json
from harp_tf.run_dir import TRAINING_STAGES, RunDirectory
from harp_tf.types import HarpError

_RESULTS = ("dense", "pruned", "tflite", "tflite_sparse")
_EVALUATION_BATCH = 256


class Run:
    """One run in its directory.

    Args:
        config: the settings.
        say: receives lines of text for the user.

    Raises:
        HarpError: if a setting, the data or the model cannot be used. Nothing is trained before all of them were
            checked.
    """

    def __init__(self, config: RunConfig, say: Callable[[str], None] = print):
        self.config = config
        self.say = say
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
        self.attack = attacks.PGD(
            eps=config.eps, norm=config.norm, step_size=config.attack_step_size, steps=config.attack_steps
        )
        self.final_attacks = {
            f"pgd{config.eval_steps}": attacks.PGD(
                eps=config.eps,
                norm=config.norm,
                step_size=config.eps / 10 if config.eval_step_size is None else config.eval_step_size,
                steps=config.eval_steps,
            )
        }
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
            self._wrap(self.network, verbose=False)

    # Training ----------------------------------------------------------------------------------------------------

    def _wrap(self, model: keras.Model, verbose: bool = True) -> keras.Model:
        c = self.config
        return layers.prune(
            model,
            c.target_sparsity,
            mode=c.mode,
            strategy=self._strategy,
            initial_rate=c.initial_rate,
            skip=c.skip,
            budget=c.budget,
            floor_factor=c.floor_factor,
            verbose=verbose,
        )

    def _pretrain(self) -> None:
        self._train("pretrain", self.config.pretrain_epochs, self.config.pretrain_learning_rate)
        save_keras(self.network, self.dir / "dense.keras")

    def _prune(self) -> None:
        if not (self.dir / "dense.keras").exists():
            save_keras(self.network, self.dir / "dense.keras")
        self.network = self._wrap(self.network)
        callbacks = [] if self.config.mode == "score" else [training.StepwiseRegularization(self.config.gamma)]
        best = self._train("prune", self.config.prune_epochs, self.config.prune_learning_rate, callbacks)
        if best.projected:
            self.say("The rates of the chosen epoch exceeded the target and were projected onto it.")
        self.say(layers.describe(self.network))
        self._write_rates(best.projected)
        save_keras(layers.strip(self.network), self.dir / "pruned.keras")
        save_keras(self.network, self.dir / "scored.keras")

    def _finetune(self) -> None:
        if not (self.dir / "rates.json").exists():
            self._write_rates(projected=False)  # of a network that was pruned in another directory
        layers.set_stage(self.network, "finetune")
        self._train("finetune", self.config.finetune_epochs, self.config.finetune_learning_rate)
        save_keras(layers.strip(self.network), self.dir / "pruned.keras")

    def _train(self, stage: str, epochs: int, learning_rate: float, callbacks=()) -> training.KeepBest:
        c = self.config
        split = self.data.train
        steps = split.steps_per_epoch(c.batch_size)
        # The schedule counts updates, and the loss free makes several of each batch.
        updates = steps * (c.replays if c.loss == "free" else 1)
        seed = c.seed * len(TRAINING_STAGES) + TRAINING_STAGES.index(stage)
        trainer = training.AdversarialModel(
            self.network,
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
                *callbacks,  # after KeepBest, so that at the end they see the weights that it kept
                training.MetricsLog(self.dir, stage),
                *([] if interactive else [training.EpochLine(stage, epochs, self.say)]),
            ],
        )
        if best.best_epoch is not None:
            self.say(f"Kept epoch {best.best_epoch + 1} of {epochs}, the best on the validation split.")
        return best

    def _write_rates(self, projected: bool) -> None:
        table, spec = layers.rate_table(self.network), layers.pruning_spec(self.network)
        total = sum(int(row["weights"]) for row in table.values())
        write_json(
            self.dir / "rates.json",
            {
                "target_sparsity": spec.target_sparsity,
                "granularity": spec.granularity,
                "mode": spec.mode,
                "strategy": self.config.strategy,
                "weights": total,
                "kept": sum(row["kept"] for row in table.values()),
                "budget": compression.weight_budget(total, spec.target_rate),
                "projected": projected,
                "layers": table,
            },
        )

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
        """Measures every model and file on the test split and writes results.json, keeping other attacks' figures."""
        results = self.directory.read_json("results.json")
        for key, figures in results.items():
            if not isinstance(figures.get("robust_accuracy"), dict):
                raise HarpError(f"{self.dir / 'results.json'} lacks the robust_accuracy of {key}. Remove the file.")
        for name, model in self.plain_models().items():
            tflite = self.dir / TFLITE_FILES[name]
            measured = self.measure(name, model, self.dir / f"{name}.keras", tflite if tflite.exists() else None)
            for key, figures in measured.items():
                earlier = results[key]["robust_accuracy"] if key in results else {}
                results[key] = {**figures, "robust_accuracy": {**earlier, **figures["robust_accuracy"]}}
        write_json(self.dir / "results.json", {key: results[key] for key in _RESULTS if key in results})

    def measure(self, name: str, model: keras.Model, file: Path, tflite: Path | None = None) -> dict[str, dict]:
        """Accuracies and sizes of a plain Keras model and of the TFLite file made of it.

        Args:
            name: what to call the model.
            model: the model.
            file: the .keras file it came from.
            tflite: its TFLite file. It sees the adversarial images that were crafted on the Keras model.

        Returns:
            Results by name: `name`, and the name of the TFLite file's row.
        """
        logits = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        predictors = {name: lambda x: logits(x).numpy()}
        counts = layers.kernel_nonzeros(model).values()
        sizes = {name: _sizes(file, sum(n for n, _ in counts), sum(k for _, k in counts))}
        if tflite is not None:
            key = TFLITE_KEYS[name]
            predictors[key] = deploy.TFLiteClassifier(tflite, num_threads=os.cpu_count() or 1).logits
            kernels = deploy.kernel_nonzeros(tflite)
            sizes[key] = _sizes(tflite, sum(k.weights for k in kernels), sum(k.nonzero for k in kernels))
        figures = attacks.evaluate(
            logits,
            self.data.test.batches(_EVALUATION_BATCH),
            self.final_attacks,
            predictors,
            self.data.num_classes,
            robust_limit=self.config.robust_limit,
            seed=self.config.seed,
            progress=self._progress(name),
        )
        return {key: {**figure, **sizes[key]} for key, figure in figures.items()}

    def _progress(self, name: str) -> Callable[[int], None]:
        total = self.data.test.num_examples
        if not sys.stdout.isatty():
            return lambda done: self.say(f"{name}: {done} of {total} test images") if done >= total else None
        bar = keras.utils.Progbar(total, unit_name="image")
        return lambda done: bar.update(done)


TFLITE_FILES = {"dense": "model.tflite", "pruned": "model_sparse.tflite"}
TFLITE_KEYS = {"dense": "tflite", "pruned": "tflite_sparse"}


def exported_line(written: deploy.ExportReport) -> str:
    """What was exported, for the user, in one line."""
    return (
        f"{written.path}: {written.file_bytes:,} bytes, {written.nonzero:,} of {written.parameters:,} weights not 0, "
        f"logits within {written.max_logit_difference:.1e} of the Keras model"
    )


def _sizes(file: Path, parameters: int, nonzero: int) -> dict:
    file_bytes, gzip_bytes = files.sizes(file.read_bytes())
    return {
        "sparsity": 1.0 - nonzero / parameters if parameters else 0.0,
        "nonzero": nonzero,
        "parameters": parameters,
        "file_bytes": file_bytes,
        "gzip_bytes": gzip_bytes,
    }
