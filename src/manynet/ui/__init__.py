"""The live page of a run, served to a browser on this machine: `manynet ui RUN`."""

from manynet.ui._serve import ui

__all__ = ["ui"]
