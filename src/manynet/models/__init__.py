"""Ready networks, networks by name, and families from their folders."""

from manynet.models.build import build as build
from manynet.models.cnn import mlp as mlp
from manynet.models.cnn import small_cnn as small_cnn
from manynet.models.load import load as load

__all__ = ["build", "load", "mlp", "small_cnn"]
