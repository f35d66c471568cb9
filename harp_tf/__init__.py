"""HARP for Keras 3: neural networks that are small, still accurate and still hard to fool."""

import harp_tf.keras_backend  # noqa: F401  # it checks, before anything else is imported  # isort: split
from harp_tf import attacks, baselines, losses, models
from harp_tf.baselines import register_method
from harp_tf.compaction import compact
from harp_tf.deploy import TFLiteClassifier, export_tflite
from harp_tf.layers import describe, project_to_budget, prune, register_kernels, set_stage, strip
from harp_tf.training import AdversarialModel, KeepBest, StepwiseRegularization
from harp_tf.types import HarpError, PruningSpec

__version__ = "0.1.0"

__all__ = [
    "AdversarialModel",
    "HarpError",
    "KeepBest",
    "PruningSpec",
    "StepwiseRegularization",
    "TFLiteClassifier",
    "attacks",
    "baselines",
    "compact",
    "describe",
    "export_tflite",
    "losses",
    "models",
    "project_to_budget",
    "prune",
    "register_kernels",
    "register_method",
    "set_stage",
    "strip",
]
