"""python -m harp_tf.train --flagfile=flags/NAME.flags: runs all stages into a run directory."""

import dataclasses

from harp_tf import cli_flags, pipeline


def main() -> None:
    """Reads the flags and runs the stages; a model that was trained already is not pretrained unless asked for."""
    config = cli_flags.read_settings()
    trained = config.init_from or (config.model if config.model.endswith(".keras") else None)
    if trained and "stages" not in cli_flags.given_flags():
        config = dataclasses.replace(config, stages=config.stages[1:], init_from=trained)
    pipeline.Run(config).run()


if __name__ == "__main__":
    cli_flags.define_settings()
    cli_flags.define_recipe()
    cli_flags.run(main)
