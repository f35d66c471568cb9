"""From a run directory to what a person reads: closing table, plots, one HTML page. Knows no TensorFlow."""

from harp_tf.report.page import write_report
from harp_tf.report.plots import write_plots
from harp_tf.report.table import results_table, verdict

__all__ = ["results_table", "verdict", "write_plots", "write_report"]
