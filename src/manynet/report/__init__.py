"""Report: what a run found, as one page that opens anywhere, and drawings for other pages."""

from manynet.report._format import cost_label, cost_text, quality_text
from manynet.report._write import write_report

__all__ = ["cost_label", "cost_text", "quality_text", "write_report"]
