"""The processes that train one run together: the first of them, the chief, writes into the run directory."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from harp_tf import training
from harp_tf.config import RunConfig
from harp_tf.run_dir import TRAINING_STAGES
from harp_tf.types import HarpError

_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
)
_NOT_NEEDED = shutil.ignore_patterns("tensorboard", "plots", "evaluation", ".*")


class Workers:
    """This process among those of a run.

    What is not the chief does the same training in a temporary copy of the run directory as it is at the start, and
    ends with it: export and evaluation are the chief's. So all of them have to see the run directory when they start,
    for what an earlier run has left there.

    Attributes:
        strategy: how the trainings of the run are distributed.
        chief: whether this process writes into the run directory.
        config: the settings, with the temporary folder as `run_dir` in other processes.
        stages: the stages that this process runs.

    Args:
        config: the settings of the run.

    Raises:
        HarpError: if the machine has no such devices, the settings do not suit them, or TF_CONFIG is wrong.
    """

    def __init__(self, config: RunConfig):
        trains = config.stages[0] in TRAINING_STAGES
        name = config.distribute if trains else "none"
        if name != "none":
            tf.get_logger().setLevel("WARNING")  # it would tell of every sum over the devices
        self.strategy = training.make_strategy(name, config.devices if name == "mirrored" else None)
        self.chief = training.is_chief(self.strategy)
        self.config, self.stages = config, config.stages
        _check(config, self.strategy.num_replicas_in_sync)
        if not self.chief:
            self._folder = tempfile.TemporaryDirectory(prefix="harp_tf_worker_")
            copy = Path(self._folder.name) / "run"
            if Path(config.run_dir).is_dir():
                shutil.copytree(config.run_dir, copy, ignore=_NOT_NEEDED)
            self.config = dataclasses.replace(config, run_dir=str(copy))
            self.stages = tuple(stage for stage in config.stages if stage in TRAINING_STAGES)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Waits until all processes have read the run directory, and says in one line if one of them is lost later.

        Inside of it only the chief prints.

        Raises:
            HarpError: if another process has gone away.
        """
        if not training.several_workers(self.strategy):
            yield
            return
        try:
            with contextlib.ExitStack() as stack:
                if not self.chief:
                    nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                    stack.enter_context(contextlib.redirect_stdout(nowhere))
                training.Votes(self.strategy)(0)
                yield
        except _LOST as error:
            reason = " ".join(str(error).split())[:200]
            raise HarpError(
                f"Another worker is gone ({reason}). Start all of them again as before, and the run goes on from its "
                "checkpoint."
            ) from error
        finally:
            if not self.chief:
                self._folder.cleanup()


def _check(config: RunConfig, replicas: int) -> None:
    if (replicas - 1) * -(-config.batch_size // replicas) >= config.batch_size:
        raise HarpError(
            f"batch_size is the number of images of all {replicas} devices together, received {config.batch_size}: "
            f"some would have none. Make it a multiple of {replicas}."
        )
    if replicas > 1 and config.jit == "on":
        raise HarpError(
            f"jit=on cannot compile a step of {replicas} devices, whose parts of a batch differ in size. Leave jit out."
        )
    if config.accumulate > 1 and config.batch_size % (config.accumulate * replicas):
        raise HarpError(
            f"batch_size must be divisible by accumulate times the number of devices, {config.accumulate} * "
            f"{replicas}, received {config.batch_size}."
        )
