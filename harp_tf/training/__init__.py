"""Adversarial training inside Keras."""

from harp_tf.training.adversarial_model import AdversarialModel
from harp_tf.training.callbacks import (
    EpochLine,
    KeepBest,
    MetricsLog,
    StepwiseRegularization,
    StopOnNaN,
)
from harp_tf.training.input_checks import check_batch

__all__ = [
    "AdversarialModel",
    "EpochLine",
    "KeepBest",
    "MetricsLog",
    "StepwiseRegularization",
    "StopOnNaN",
    "check_batch",
]
