"""What tells the members of a family apart: choices, spaces, archs. No torch here."""

from manynet.space._arch import Arch, Value
from manynet.space._choice import Choice
from manynet.space._constraint import Constraint
from manynet.space._grid import Grid
from manynet.space._logic import Allow, Forbid, Implies
from manynet.space._numeric import AtMost, Divides, Equal, LessEqual
from manynet.space._space import Space

__all__ = [
    "Allow",
    "Arch",
    "AtMost",
    "Choice",
    "Constraint",
    "Divides",
    "Equal",
    "Forbid",
    "Grid",
    "Implies",
    "LessEqual",
    "Space",
    "Value",
]
