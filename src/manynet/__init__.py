"""One set of weights, many networks."""

from manynet._version import __version__

__all__ = ["__version__"]
