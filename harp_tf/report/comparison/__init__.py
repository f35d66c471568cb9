"""From comparison.json to a table, plots and one page."""

from harp_tf.report.comparison.page import write_comparison
from harp_tf.report.comparison.table import comparison_table

__all__ = ["comparison_table", "write_comparison"]
