"""python -m harp_tf.evaluate --target=RUN_DIR|MODEL.keras: natural and robust accuracy on the test split."""

from pathlib import Path

from absl import flags

from harp_tf import cli_flags, layers, models, pipeline, report


def main() -> None:
    """Evaluates a run directory (results.json and the report are renewed) or one .keras file."""
    target = Path(flags.FLAGS.target)
    config = cli_flags.settings_for_target("evaluate")
    run = pipeline.Run(config)
    if target.is_dir():
        run.run()
        return
    model, _ = models.load_or_build(str(target), run.data.input_shape, run.data.num_classes)
    if layers.pruned_kernels(model):
        model = layers.strip(model)
    print("\n" + report.results_table(run.measure(target.stem, model, target)))


if __name__ == "__main__":
    cli_flags.define_settings()
    cli_flags.define_target()
    cli_flags.run(main)
