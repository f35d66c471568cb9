"""python -m harp_tf.compare --flagfile=flags/NAME.flags: pruning methods side by side, with a report."""

import signal
import sys

from absl import flags

from harp_tf import cli_flags, comparison, pipeline
from harp_tf.config import RunConfig
from harp_tf.types import HarpError

_INSTEAD = {
    "method": "Choose with --methods.",
    "strategy": "Choose with --methods.",
    "stages": "A comparison runs the stages that it needs.",
    "restart": "Remove the directory of the comparison, or of single cells, to begin them anew.",
    "measure_dense": "A comparison measures each dense model once.",
}
"""Flags of single runs that a comparison sets itself, and what to do."""


def main() -> None:
    """Makes the cells that are missing and writes the report; the exit status tells whether a cell failed."""
    given = cli_flags.given_flags()
    for name, advice in _INSTEAD.items():
        if name in given:
            raise HarpError(f"--{name} is for single runs, and this is a comparison. {advice}")
    config = cli_flags.read_settings()
    axes = read_axes(config)
    data = pipeline.load_data(config)
    steps = data.train.steps_per_epoch(config.batch_size)
    try:
        failed = comparison.Comparison(config, axes, steps, data.record(), jobs=flags.FLAGS.jobs).run()
    except KeyboardInterrupt:
        print("\nInterrupted: what is finished is kept, and the same command goes on with the rest.")
        sys.exit(128 + signal.SIGINT)
    sys.exit(1 if failed else 0)


def define_axes() -> None:
    """Defines the flags that say what a comparison varies."""
    flags.DEFINE_list(
        "methods",
        list(comparison.CHOICES),
        f"Methods, some of {', '.join(comparison.CHOICES)}; radmm@lamp is radmm at LAMP rates, hydra@harp at "
        f"those that HARP learned. After @: {', '.join(comparison.RATES)}. Modules of --import_modules may register "
        "more.",
    )
    flags.DEFINE_list("sparsities", [], "Fractions of the weights to remove, as 0.9,0.99; default --target_sparsity.")
    flags.DEFINE_list("losses", [], "Training losses; one dense model each. Default: --loss.")
    flags.DEFINE_integer(
        "jobs", 1, "Make so many runs at a time, which share the cores of the processor evenly.", lower_bound=1
    )
    flags.DEFINE_list("seeds", [], "Seeds of the prune and finetune stages; the dense model has --seed, the default.")


def read_axes(config: RunConfig) -> comparison.Axes:
    """Reads what a comparison varies; what was not given is as the settings say.

    Raises:
        HarpError: if a method is unknown, or a number is none.
    """
    f = flags.FLAGS
    sparsities = f.sparsities or [str(config.target_sparsity)]
    return comparison.Axes.parse(f.methods, sparsities, f.losses or [config.loss], f.seeds or [str(config.seed)])


if __name__ == "__main__":
    cli_flags.define_settings()
    define_axes()
    cli_flags.run(main)
