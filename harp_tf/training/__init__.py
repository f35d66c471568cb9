"""Adversarial training inside Keras."""

from harp_tf.training.adversarial_model import AdversarialModel
from harp_tf.training.callbacks import (
    EpochLine,
    KeepBest,
    MetricsLog,
    StepwiseRegularization,
)
from harp_tf.training.checkpoint import Checkpoint
from harp_tf.training.checkpoint_store import CheckpointStore, Position
from harp_tf.training.distribution import Votes, is_chief, make_strategy, several_workers
from harp_tf.training.input_checks import check_batch, only_class
from harp_tf.training.interruption import Interrupted, Interruption
from harp_tf.training.precision import computing_in
from harp_tf.training.replicas import local_statistics, synchronized
from harp_tf.training.resources import WatchMemory, require_disk, training_bytes
from harp_tf.training.sharding import RowsOfBatches
from harp_tf.training.watchdogs import StopOnNaN, Watchdog

__all__ = [
    "AdversarialModel",
    "Checkpoint",
    "CheckpointStore",
    "EpochLine",
    "Interrupted",
    "Interruption",
    "KeepBest",
    "MetricsLog",
    "Position",
    "RowsOfBatches",
    "StepwiseRegularization",
    "StopOnNaN",
    "Votes",
    "WatchMemory",
    "Watchdog",
    "check_batch",
    "only_class",
    "computing_in",
    "is_chief",
    "local_statistics",
    "make_strategy",
    "require_disk",
    "several_workers",
    "synchronized",
    "training_bytes",
]
