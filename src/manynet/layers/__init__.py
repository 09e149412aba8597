"""Layers and networks that compute with weights made for each sample."""

from manynet.layers.hyper import HyperLinear as HyperLinear
from manynet.layers.hyper import HyperMLP as HyperMLP
from manynet.layers.hyper import PerSample as PerSample

__all__ = ["HyperLinear", "HyperMLP", "PerSample"]
