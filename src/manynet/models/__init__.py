"""Ready networks, networks by name, and families from their folders."""

from manynet.models.build import build as build
from manynet.models.load import load as load

__all__ = ["build", "load"]
