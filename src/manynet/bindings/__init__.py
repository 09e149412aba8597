"""Bindings: the ways in which a member's tensors are read from the shared ones."""

from manynet.bindings.axes import Axis as Axis
from manynet.bindings.axes import Concat as Concat
from manynet.bindings.axes import Dim as Dim
from manynet.bindings.kernel import KernelTransform as KernelTransform
from manynet.bindings.protocol import Binding as Binding
from manynet.bindings.protocol import Computed as Computed
from manynet.bindings.protocol import Part as Part
from manynet.bindings.protocol import Reading as Reading
from manynet.bindings.slice import Slice as Slice

__all__ = [
    "Axis",
    "Binding",
    "Computed",
    "Concat",
    "Dim",
    "KernelTransform",
    "Part",
    "Reading",
    "Slice",
]
