"""Figures of finished runs: means and intervals over seeds, tables, pictures."""

from trgl.report.comparison import Comparison, compare
from trgl.report.picture import draw
from trgl.report.tables import to_csv, to_dict, to_markdown

__all__ = ["Comparison", "compare", "draw", "to_csv", "to_dict", "to_markdown"]
