"""From a run directory to what a person reads: closing table, plots, one HTML page. Knows no TensorFlow."""

from harp_tf.report import labels
from harp_tf.report.comparison import comparison_table, write_comparison
from harp_tf.report.curves import write_security_curve
from harp_tf.report.examples import write_examples
from harp_tf.report.page import write_report
from harp_tf.report.progress import Progress
from harp_tf.report.table import results_table, verdict
from harp_tf.report.warnings import warnings

__all__ = [
    "Progress",
    "comparison_table",
    "labels",
    "results_table",
    "verdict",
    "warnings",
    "write_comparison",
    "write_examples",
    "write_report",
    "write_security_curve",
]
