"""Smaller Keras models that compute the same: channels that are constant, or that nothing reads, are removed."""

from harp_tf.compaction.compact import compact, compact_with_report
from harp_tf.compaction.cut import cut_at
from harp_tf.compaction.report import CompactionReport, LayerChange

__all__ = ["CompactionReport", "LayerChange", "compact", "compact_with_report", "cut_at"]
