"""One set of weights, many networks."""

from manynet._version import __version__
from manynet.elastic import elastic
from manynet.family import Family
from manynet.models import load
from manynet.space import Arch, Choice, Space

__all__ = ["Arch", "Choice", "Family", "Space", "__version__", "elastic", "load"]
