"""python -m harp_tf.export --target=RUN_DIR|MODEL.keras: checked TFLite files of trained models, and phone kits."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from harp_tf import attacks, cli_flags, compaction, deploy, layers, measure, models, pipeline, report
from harp_tf.files import write_json
from harp_tf.types import HarpError

_BATCH = 256
_KIT_SETTINGS = ("attacks", "robust_limit", "class_names")


def main() -> None:
    """Exports the models of a run directory, or one .keras file to a .tflite file beside it."""
    target = Path(flags.FLAGS.target)
    config = cli_flags.settings_for_target("export")
    if target.is_dir():
        _check_flags(
            target, ("output", "sparse", "quantize"), "a .keras target; a run directory has its own file names"
        )
        run = pipeline.Run(config)
        if flags.FLAGS.kit:
            _write_kit(run)
        else:
            _check_flags(target, ("arm_sparse", "compact"), "a .keras target or a phone kit (--kit)")
            _check_flags(target, (*_KIT_SETTINGS, "forms"), "a phone kit (--kit)")
            run.run()
        if flags.FLAGS.bench:
            _bench(run.dir / "latency.json", _files(run.dir, "*.tflite"))
            print(f"\nReport: {report.write_report(run.dir)}")
        if flags.FLAGS.check_arm_sparse or flags.FLAGS.arm_sparse:
            _check_arm_sparse(_files(run.dir, "*sparse.tflite"))
        return
    _check_flags(target, ("kit", "forms", *_KIT_SETTINGS), "a run directory, whose data a phone kit is measured on")
    model = models.load(target)
    if layers.pruned_kernels(model):
        model = layers.strip(model)
    path = Path(flags.FLAGS.output or target.with_suffix(".tflite"))
    written = deploy.export_tflite(_shipped(model), path, sparse=flags.FLAGS.sparse, quantize=flags.FLAGS.quantize)
    print(pipeline.exported_line(written))
    if flags.FLAGS.bench:
        output = path.with_name(f"{path.stem}_latency.json")
        _bench(output, {"dense float32": deploy.to_tflite(model), path.name: path})
    if flags.FLAGS.check_arm_sparse or flags.FLAGS.arm_sparse:
        _check_arm_sparse({path.name: path})


def _files(folder: Path, pattern: str) -> dict[str, Path]:
    """Files of a run directory by their path in it, without what a killed process has left half written."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob(pattern))}
    return {name: path for name, path in found.items() if not any(part.startswith(".") for part in Path(name).parts)}


def _check_flags(target: Path, names: Iterable[str], wanted: str) -> None:
    wrong = [f"--{name}" for name in names if flags.FLAGS[name].present]
    if wrong:
        raise HarpError(f"{', '.join(wrong)}: for {wanted}; received --target={target}.")


def _shipped(model: keras.Model) -> keras.Model:
    """The model in the form that is exported; its logits are those of the given one."""
    if flags.FLAGS.compact:
        model = compaction.compact(model)
    return deploy.rewrite_for_arm(model) if flags.FLAGS.arm_sparse else model


def _write_kit(run: pipeline.Run) -> None:
    """RUN_DIR/kit: the pruned model in all forms, measured on natural and on adversarial test images."""
    model = run.plain_models().get("pruned")
    if model is None:
        raise HarpError(f"A phone kit is made of a pruned model; {run.dir} holds no pruned.keras. Prune first.")
    deploy.check_kit(model, run.dir / "kit", run.data.class_names, flags.FLAGS.forms)  # attacks may take hours
    natural = _arrays(run.data.test.batches(_BATCH))
    images, labels = (array[: run.config.robust_limit] for array in natural)
    logits, predict = measure.logits_of(model), measure.predictor_of(model)
    everyone = {"pruned": np.ones(len(labels), bool)}  # attacked, though the model may err on the clean image already
    sets = {"natural": natural}
    direct = attacks.black_box_parts(run.final_attacks)
    for name, attack in run.final_attacks.items():
        if name in direct:
            continue
        engine = attacks.Engine(attack, logits, images.shape[1:], run.data.num_classes, chunk=_BATCH)
        places = np.arange(len(labels))
        outcome = engine.run(images, labels, places, {"pruned": predict}, everyone, seed=run.config.seed)
        sets[name] = (outcome.adversarial, labels)
    trials = {
        f"{name} on the file": _trial(attack, images, labels, run.data.num_classes, run.config.seed)
        for name, attack in direct.items()
    }
    keras_accuracy = {
        name: float(np.mean(model.predict(images, batch_size=_BATCH, verbose=0).argmax(-1) == labels))
        for name, (images, labels) in sets.items()
    }
    keras_accuracy |= {name: trial.accuracy(predict) for name, trial in trials.items()}
    variants = deploy.write_kit(
        _shipped(model),
        run.dir / "kit",
        run.data.class_names,
        sets,
        run.data.train.batches(_BATCH).map(lambda images, labels: images),
        forms=flags.FLAGS.forms,
        trials=trials,
        keras_accuracy=keras_accuracy,
        num_threads=os.cpu_count() or 1,
        progress=print,
    )
    for variant in variants:
        for name, accuracy in variant.accuracy.items():
            if keras_accuracy[name] - accuracy > 0.01:
                print(
                    f"warning: {variant.name} costs {100 * (keras_accuracy[name] - accuracy):.1f} points of {name} "
                    f"accuracy ({100 * keras_accuracy[name]:.1f} % in Keras)."
                )
    print(f"\nPhone kit: {run.dir / 'kit'}")


def _trial(attack: attacks.Attack, images: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> deploy.Trial:
    """An attack that needs no gradient, run on a classifier itself: accuracy is what stands clean and attacked."""

    def accuracy(predict: attacks.Predict) -> float:
        logits = measure.logits_without_gradient(predict, classes)
        engine = attacks.Engine(attack, logits, images.shape[1:], classes, chunk=_BATCH)
        correct = {"file": predict(images).argmax(-1) == labels}
        outcome = engine.run(images, labels, np.arange(len(labels)), {"file": predict}, correct, seed=seed)
        return float(outcome.standing["file"].mean())

    settings = ", ".join(f"{key} {value}" for key, value in attack.as_dict().items())
    return deploy.Trial(f"{len(labels):,} images, the attack run on each file itself ({settings})", accuracy)


def _arrays(batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(images.numpy(), labels.numpy()) for images, labels in batches]
    return np.concatenate([images for images, _ in pairs]), np.concatenate([labels for _, labels in pairs])


def _bench(output: Path, sources: Mapping[str, Path | bytes]) -> None:
    """Times the files one against another, prints the medians and writes them as JSON."""
    found = deploy.latency(sources)
    width = max(len(row.name) for row in found)
    rows = []
    print(f"\n{'file':{width}}  threads  median ms  (10 % to 90 %)   of the first  litert-benchmark")
    for row in found:
        again = deploy.litert_benchmark(sources[row.name], row.threads)
        spread = f"({row.p10_ms:.3f} to {row.p90_ms:.3f})"
        print(
            f"{row.name:{width}}  {row.threads:7}  {row.median_ms:9.3f}  {spread:15}  {row.ratio:12.2f}  "
            f"{'failed' if again is None else f'{again:.2f}':>16}"
        )
        rows.append({**dataclasses.asdict(row), "litert_benchmark_ms": again})
    write_json(output, {"rows": rows})


def _check_arm_sparse(paths: dict[str, Path]) -> None:
    """Prints for each file whether XNNPACK runs it sparse on ARM, and otherwise what is in the way."""
    for name, path in paths.items():
        found = deploy.arm_sparse_report(path)
        print(f"\n{name}: on ARM, XNNPACK {'runs it dense, because' if found else 'skips its zeros'}")
        for finding in found:
            print(f"  {finding}")


def define_own() -> None:
    """Defines the flags that only this program has."""
    flags.DEFINE_string("output", None, "The .tflite file to write for a .keras target; default: beside it.")
    flags.DEFINE_boolean("sparse", True, "Store kernels sparsely where that is smaller (for a .keras target).")
    flags.DEFINE_enum("quantize", None, list(deploy.WEIGHT_TYPES), "Store kernels in fewer bits (for a .keras target).")
    flags.DEFINE_boolean("compact", False, "Remove dead channels first; the logits stay the same.")
    flags.DEFINE_boolean(
        "kit", False, "Write RUN_DIR/kit, a phone kit of the pruned model, instead of the usual files."
    )
    flags.DEFINE_list("forms", list(deploy.FORMS), f"Forms in the phone kit: {', '.join(deploy.FORMS)}.")
    flags.DEFINE_boolean("bench", False, "Time the .tflite files one against another, with 1 and 2 threads.")
    flags.DEFINE_boolean(
        "check_arm_sparse", False, "Tell whether sparse files run faster on ARM, and what prevents it."
    )
    flags.DEFINE_boolean(
        "arm_sparse",
        False,
        "Bring a model into the form that runs sparse on ARM, where one gives the same logits (for a .keras target or "
        "a phone kit); then do what --check_arm_sparse does.",
    )


if __name__ == "__main__":
    cli_flags.define_target()
    cli_flags.define_settings((*_KIT_SETTINGS, "import_modules", "data_dir", "download", "test_limit"))
    define_own()
    cli_flags.run(main)
