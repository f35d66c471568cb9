"""python -m harp_tf.export --target=RUN_DIR|MODEL.keras: checked TFLite files of trained models."""

from pathlib import Path

from absl import flags

from harp_tf import cli_flags, deploy, layers, models, pipeline
from harp_tf.types import HarpError


def main() -> None:
    """Exports the models of a run directory, or one .keras file to a .tflite file beside it."""
    target = Path(flags.FLAGS.target)
    config = cli_flags.settings_for_target("export")
    if target.is_dir():
        if flags.FLAGS.output is not None or not flags.FLAGS.sparse:
            raise HarpError("--output and --nosparse are for a .keras target; a run directory has its own file names.")
        pipeline.Run(config).run()
        return
    model = models.load(target)
    if layers.pruned_kernels(model):
        model = layers.strip(model)
    path = Path(flags.FLAGS.output or target.with_suffix(".tflite"))
    print(pipeline.exported_line(deploy.export_tflite(model, path, sparse=flags.FLAGS.sparse)))


if __name__ == "__main__":
    cli_flags.define_target()
    flags.DEFINE_string("output", None, "The .tflite file to write for a .keras target; default: beside it.")
    flags.DEFINE_boolean("sparse", True, "Store kernels sparsely where that is smaller (for a .keras target).")
    cli_flags.run(main)
