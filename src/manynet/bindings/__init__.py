"""Bindings: the ways in which a member's tensors are read from the shared ones."""

from manynet.bindings.across import across as across
from manynet.bindings.across import neighbors as neighbors
from manynet.bindings.axes import Axis as Axis
from manynet.bindings.axes import Concat as Concat
from manynet.bindings.axes import Dim as Dim
from manynet.bindings.bits import Bits as Bits
from manynet.bindings.bits import exclusive as exclusive
from manynet.bindings.bits import overlap as overlap
from manynet.bindings.codes import Codes as Codes
from manynet.bindings.codes import rounded_to_nearest as rounded_to_nearest
from manynet.bindings.compand import Compand as Compand
from manynet.bindings.compand import Power as Power
from manynet.bindings.compand import compand as compand
from manynet.bindings.compand import expand as expand
from manynet.bindings.convolve import Convolve as Convolve
from manynet.bindings.convolve import convolved as convolved
from manynet.bindings.convolve import dilated as dilated
from manynet.bindings.generate import Generate as Generate
from manynet.bindings.hold import Hold as Hold
from manynet.bindings.kernel import KernelTransform as KernelTransform
from manynet.bindings.kinds import register as register
from manynet.bindings.low_rank import LowRank as LowRank
from manynet.bindings.mask import Mask as Mask
from manynet.bindings.mask import TopK as TopK
from manynet.bindings.mix import Mix as Mix
from manynet.bindings.operation import ByArch as ByArch
from manynet.bindings.operation import Operation as Operation
from manynet.bindings.pack import Integers as Integers
from manynet.bindings.pack import pack as pack
from manynet.bindings.pack import unpack as unpack
from manynet.bindings.protocol import Binding as Binding
from manynet.bindings.protocol import Computed as Computed
from manynet.bindings.protocol import Part as Part
from manynet.bindings.protocol import Reading as Reading
from manynet.bindings.quantize import Quantize as Quantize
from manynet.bindings.route import Encode as Encode
from manynet.bindings.route import Route as Route
from manynet.bindings.route import Row as Row
from manynet.bindings.shard import Shard as Shard
from manynet.bindings.slice import Pick as Pick
from manynet.bindings.slice import Slice as Slice
from manynet.bindings.slice import whole as whole
from manynet.bindings.superpose import Superpose as Superpose
from manynet.bindings.superpose import superposed as superposed
from manynet.bindings.tie import Tie as Tie
from manynet.bindings.unpacked import Unpack as Unpack

__all__ = [
    "Axis",
    "Binding",
    "Bits",
    "ByArch",
    "Codes",
    "Compand",
    "Computed",
    "Concat",
    "Convolve",
    "Dim",
    "Encode",
    "Generate",
    "Hold",
    "Integers",
    "KernelTransform",
    "LowRank",
    "Mask",
    "Mix",
    "Operation",
    "Part",
    "Pick",
    "Power",
    "Quantize",
    "Reading",
    "Route",
    "Row",
    "Shard",
    "Slice",
    "Superpose",
    "Tie",
    "TopK",
    "Unpack",
    "across",
    "compand",
    "convolved",
    "dilated",
    "exclusive",
    "expand",
    "neighbors",
    "overlap",
    "pack",
    "register",
    "rounded_to_nearest",
    "superposed",
    "unpack",
    "whole",
]
