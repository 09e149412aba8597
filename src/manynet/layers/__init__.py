"""Layers that share weights by themselves: by symmetry, or by making them for each sample."""

from manynet.layers._group_conv import GroupConv as GroupConv
from manynet.layers._group_conv import KernelBasis as KernelBasis
from manynet.layers._group_conv import SeparableGroupConv as SeparableGroupConv
from manynet.layers._group_conv import calibrate_kernels as calibrate_kernels
from manynet.layers._invariants import envelope as envelope
from manynet.layers._invariants import monomials as monomials
from manynet.layers._invariants import pair_invariants as pair_invariants
from manynet.layers._invariants import safe_norm as safe_norm
from manynet.layers._orientations import lift_vectors as lift_vectors
from manynet.layers._orientations import orientation_grid as orientation_grid
from manynet.layers._orientations import random_rotations as random_rotations
from manynet.layers._orientations import read_vectors as read_vectors
from manynet.layers.hyper import HyperLinear as HyperLinear
from manynet.layers.hyper import HyperMLP as HyperMLP
from manynet.layers.hyper import PerSample as PerSample

__all__ = [
    "GroupConv",
    "HyperLinear",
    "HyperMLP",
    "KernelBasis",
    "PerSample",
    "SeparableGroupConv",
    "calibrate_kernels",
    "envelope",
    "lift_vectors",
    "monomials",
    "orientation_grid",
    "pair_invariants",
    "random_rotations",
    "read_vectors",
    "safe_norm",
]
