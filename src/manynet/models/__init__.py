"""Ready networks, networks by name, and families from their folders."""

from manynet.models.build import build as build
from manynet.models.cnn import mlp as mlp
from manynet.models.cnn import small_cnn as small_cnn
from manynet.models.load import load as load
from manynet.models.mobile import mobile_cnn as mobile_cnn

__all__ = ["build", "load", "mlp", "mobile_cnn", "small_cnn"]
