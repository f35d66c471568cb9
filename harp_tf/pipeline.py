"""A run directory: from settings to a trained, pruned, exported and measured model."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from harp_tf import attacks, compression, data, deploy, files, layers, losses, models, report, training
from harp_tf.config import RunConfig
from harp_tf.files import save_keras, write_json
from harp_tf.types import HarpError

_WRITTEN = (
    "config.json",
    "metrics.jsonl",
    "rates.json",
    "dense.keras",
    "scored.keras",
    "pruned.keras",
    "model.tflite",
    "model_sparse.tflite",
    "results.json",
    "report.html",
    "plots",
    "tensorboard",
)
"""Everything a run writes into its directory, and all that --overwrite removes."""

_TRAINED_BY = {"pretrain": "dense.keras", "prune": "scored.keras", "finetune": "scored.keras"}
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
        self.dir = Path(config.run_dir)
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
        self.network = self._starting_model() if self._trains() else None
        self._check_network()

    def run(self) -> dict:
        """Runs the stages and returns the content of results.json ({} if nothing was evaluated).

        Raises:
            HarpError: if the run directory cannot be used, or a stage fails.
        """
        self._check_directory()
        self._prepare_directory()
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
        results = self.read_json("results.json")
        if results:
            self.say("\n" + report.results_table(results))
        report.write_plots(self.dir)
        self.say(f"\nReport: {report.write_report(self.dir)}")
        return results

    def read_json(self, name: str) -> dict:
        """The content of a JSON file of the run directory, {} if there is none."""
        path = self.dir / name
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HarpError(f"{path} is damaged ({error}). Remove it and run the stage again.") from error

    def _trains(self) -> bool:
        return bool(set(self.config.stages) & set(_TRAINED_BY))

    # Before the first step ------------------------------------------------------------------------------------

    def _check_directory(self) -> None:
        # A run that starts later goes on with what the directory holds.
        continues = self.config.stages[0] != "pretrain" and self.config.init_from is None
        present = [name for name in _WRITTEN if (self.dir / name).exists()]
        if present and not continues and not self.config.overwrite:
            raise HarpError(
                f"The run directory {self.dir} holds an earlier run ({', '.join(present[:3])}, ...). Choose another "
                "--run_dir, or replace it with --overwrite."
            )
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            probe = self.dir / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise HarpError(f"The run directory {self.dir} cannot be written: {error.strerror}.") from error

    def _starting_model(self) -> keras.Model:
        config, first = self.config, self.config.stages[0]
        source = config.init_from
        if source is None and first == "finetune":
            source = str(self.dir / "scored.keras")
        elif source is None and first == "prune" and not config.model.endswith(".keras"):
            source = str(self.dir / "dense.keras")
        elif source is not None and os.path.isdir(source):
            source = str(Path(source) / ("scored.keras" if first == "finetune" else "dense.keras"))
        if source is not None and not os.path.exists(source):
            raise HarpError(
                f"The stage {first} starts from {source}, which does not exist. Run the earlier stages too, or name a "
                "run directory or .keras file with --init_from."
            )
        model, _ = models.load_or_build(
            source or config.model,
            self.data.input_shape,
            self.data.num_classes,
            width=None if source else config.width,
            depth=None if source else config.depth,
            seed=config.seed,
        )
        return model

    def _check_network(self) -> None:
        """Everything that could fail only after hours of training."""
        if self.network is None:
            return
        for images, labels in self.data.train.training_batches(
            self.config.batch_size, seed=self.config.seed
        ).take(1):
            training.check_batch(self.network, images.numpy(), labels.numpy())
        if "prune" in self.config.stages:
            layers.project_to_budget(self._wrap(self.network, verbose=False))
        if self.config.stages[0] == "finetune":
            layers.pruning_spec(self.network)

    def _prepare_directory(self) -> None:
        if self.config.overwrite:
            for name in _WRITTEN:
                path = self.dir / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if not self._trains() and (self.dir / "config.json").exists():
            return
        packages = ("tensorflow", "keras", "ai-edge-litert", "numpy")
        write_json(
            self.dir / "config.json",
            {
                "flags": self.config.as_dict(),
                "seed": self.config.seed,
                "versions": {"python": platform.python_version()}
                | {package: importlib.metadata.version(package) for package in packages},
                "machine": {
                    "system": platform.platform(),
                    "processor": _processor(),
                    "cores": os.cpu_count(),
                },
            },
        )

    # Training ----------------------------------------------------------------------------------------------------

    def _wrap(self, model: keras.Model, verbose: bool = True) -> keras.Model:
        c = self.config
        return layers.prune(
            model,
            c.target_sparsity,
            mode=c.mode,
            strategy=c.strategy,
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
        callbacks = (
            [] if self.config.mode == "score" else [training.StepwiseRegularization(self.config.gamma)]
        )
        best = self._train("prune", self.config.prune_epochs, self.config.prune_learning_rate, callbacks)
        projected = layers.project_to_budget(self.network) or best.projected
        if projected:
            self.say("The rates of the chosen epoch exceeded the target and were projected onto it.")
        self.say(layers.describe(self.network))
        self._write_rates(projected)
        self._save_pruned()

    def _finetune(self) -> None:
        layers.set_stage(self.network, "finetune")
        self._train("finetune", self.config.finetune_epochs, self.config.finetune_learning_rate)
        self._save_pruned()

    def _train(self, stage: str, epochs: int, learning_rate: float, callbacks=()) -> training.KeepBest:
        c = self.config
        split = self.data.train
        steps = split.steps_per_epoch(c.batch_size)
        seed = c.seed * len(_TRAINED_BY) + list(_TRAINED_BY).index(stage)
        trainer = training.AdversarialModel(
            self.network,
            losses.get(c.loss, beta=c.beta, batch_size=c.batch_size, replays=c.replays),
            self.attack,
            weight_decay=c.weight_decay,
            seed=seed,
        )
        warmup = round(c.warmup_epochs * steps) if stage == "pretrain" else 0
        rate = compression.LearningRate(learning_rate, epochs * steps, c.schedule, warmup)
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
                *callbacks,
                training.StopOnNaN(),
                best,
                training.MetricsLog(self.dir, stage),
                *([] if interactive else [training.EpochLine(stage, epochs, self.say)]),
            ],
        )
        self.say(f"Kept epoch {best.best_epoch + 1} of {epochs}, the best on the validation split.")
        return best

    def _write_rates(self, projected: bool) -> None:
        table = layers.rate_table(self.network)
        total = sum(row["weights"] for row in table.values())
        write_json(
            self.dir / "rates.json",
            {
                "target_sparsity": self.config.target_sparsity,
                "granularity": layers.pruning_spec(self.network).granularity,
                "mode": self.config.mode,
                "strategy": self.config.strategy,
                "weights": total,
                "kept": sum(row["kept"] for row in table.values()),
                "budget": compression.weight_budget(total, self.config.pruning_spec().target_rate),
                "projected": projected,
                "layers": table,
            },
        )

    def _save_pruned(self) -> None:
        save_keras(self.network, self.dir / "scored.keras")
        save_keras(layers.strip(self.network), self.dir / "pruned.keras")

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
            raise HarpError(
                f"The run directory {self.dir} holds neither dense.keras nor pruned.keras. Train first."
            )
        return found

    def export(self) -> None:
        """Writes model.tflite and model_sparse.tflite, each checked against its Keras model."""
        images = next(iter(self.data.validation.batches(64)))[0].numpy()
        for name, model in self.plain_models().items():
            path = self.dir / TFLITE_FILES[name]
            self.say(exported_line(deploy.export_tflite(model, path, sparse=name == "pruned", check_images=images)))

    def evaluate(self) -> None:
        """Measures every model and file on the test split and writes results.json, keeping other attacks' figures."""
        results = self.read_json("results.json")
        for name, model in self.plain_models().items():
            tflite = self.dir / TFLITE_FILES[name]
            measured = self.measure(name, model, self.dir / f"{name}.keras", tflite if tflite.exists() else None)
            for key, figures in measured.items():
                earlier = results.get(key, {}).get("robust_accuracy", {})
                results[key] = {**figures, "robust_accuracy": {**earlier, **figures["robust_accuracy"]}}
        write_json(self.dir / "results.json", results)

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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
