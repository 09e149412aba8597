"""Report: what a run found, as one page that opens anywhere, and drawings for other pages."""

from manynet.report._write import write_report

__all__ = ["write_report"]
