"""python -m harp_tf.train --flagfile=flags/NAME.flags: runs all stages into a run directory."""

import dataclasses

from absl import flags

from harp_tf import cli_flags, pipeline
from harp_tf.baselines import METHODS
from harp_tf.types import HarpError


def main() -> None:
    """Reads the flags and runs the stages; a model that was trained already is not pretrained unless asked for."""
    _check_recipe(flags.FLAGS.method)
    config = cli_flags.read_settings()
    trained = config.init_from or (config.model if config.model.endswith(".keras") else None)
    if trained and "stages" not in cli_flags.given_flags():
        config = dataclasses.replace(config, stages=config.stages[1:], init_from=trained)
    pipeline.Run(config).run()


def _check_recipe(method: str) -> None:
    """Refuses a recipe for a method that it is not about, which would take but a part of it."""
    if flags.FLAGS.recipe and METHODS[method].mode == "score":
        learning = [name for name, known in METHODS.items() if known.mode != "score"]
        raise HarpError(
            f"--recipe={flags.FLAGS.recipe} is for methods that learn rates ({', '.join(learning)}), received "
            f"--method={method}. Leave it out; --finetune_learning_rate alone is a setting of all methods."
        )


if __name__ == "__main__":
    cli_flags.define_settings()
    cli_flags.define_recipe()
    cli_flags.run(main)
