"""python -m harp_tf.evaluate --target=RUN_DIR|MODEL.keras|MODEL.tflite: accuracy, clean and under attack."""

from pathlib import Path

from absl import flags

from harp_tf import cli_flags, layers, models, pipeline, report
from harp_tf.files import checksum, write_json
from harp_tf.measure import Figures, Measurement, check_radii
from harp_tf.reading import read_json
from harp_tf.run_dir import TFLITE_FILES
from harp_tf.types import HarpError

_TWINS = {file: f"{name}.keras" for name, file in TFLITE_FILES.items()}


def main() -> None:
    """Evaluates a run directory (results.json and the report are renewed) or one file."""
    target = Path(flags.FLAGS.target)
    config = cli_flags.settings_for_target("evaluate", (".keras", ".tflite"))
    save = Path(flags.FLAGS.save_adversarial) if flags.FLAGS.save_adversarial else None
    if target.is_dir():
        if flags.FLAGS.output is not None:
            raise HarpError("--output is for a file as target; a run directory keeps its figures in results.json.")
        pipeline.Run(config, save_adversarial=save).run()
        return
    check_radii(config)
    print(f"{target} on {config.dataset}, {config.norm}, eps {config.eps:.4g} (--dataset, --norm, --eps)")
    run = pipeline.Run(config)
    output = Path(flags.FLAGS.output) if flags.FLAGS.output is not None else None
    earlier = _earlier(output)
    known = earlier.get(target.stem, {}).get("sha256")
    if known not in (None, checksum(target)):
        raise HarpError(f"{output} holds figures of another file as {target.stem!r}. Choose another --output.")
    measurement = Measurement(
        config,
        run.data,
        earlier=earlier,
        save=save,
        state=output and output.with_name(f"{output.name}.unfinished"),
        pictures=output and output.with_name(f"{output.stem}_examples.png"),
    )
    if target.suffix == ".keras":
        found = measurement.of_keras(target.stem, _plain(target, run), target)
    else:
        same_name = target.with_suffix(".keras")
        candidates = (target.with_name(_TWINS.get(target.name, same_name.name)), same_name)
        path = next((path for path in candidates if path.is_file()), None)
        twin = (path.name, _plain(path, run), path) if path else None
        found = measurement.of_tflite(target.stem, target, twin)
    if output is not None:
        write_json(output, {**earlier, **found})
        report.write_security_curve({**earlier, **found}, output.with_name(f"{output.stem}_security_curve"))
    measurement.finish()
    print("\n" + report.results_table(found))
    print(report.warnings(found))


def _plain(path: Path, run: pipeline.Run):
    model, _ = models.load_or_build(str(path), run.data.input_shape, run.data.num_classes)
    return layers.strip(model) if layers.pruned_kernels(model) else model


def _earlier(output: Path | None) -> Figures:
    """The figures that an earlier evaluation has written there."""
    if output is None or not output.exists():
        return {}
    try:
        content = read_json(output)
        if all(isinstance(figures["robust_accuracy"], dict) for figures in content.values()):
            return content
        reason = "it holds something else"
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        reason = repr(error)
    raise HarpError(f"{output} does not hold figures of earlier evaluations: {reason}. Choose another --output.")


def define_own() -> None:
    """Defines the flags that only this program has."""
    flags.DEFINE_string(
        "output", None, "JSON file that the figures of a file as target are added to; pictures are drawn beside it."
    )
    flags.DEFINE_string("save_adversarial", None, "Folder for all adversarial images, one .npz file per attack.")


if __name__ == "__main__":
    cli_flags.define_settings()
    cli_flags.define_target()
    define_own()
    cli_flags.run(main)
