"""Images in [0, 1] as tf.data, in three splits: train, validation and test."""

from harp_tf.data.loading import load
from harp_tf.data.splits import DataSplits, Split

__all__ = ["DataSplits", "Split", "load"]
