"""Rules of the operations whose results depend on values: counts, tests, look-ups by content.

Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manynet.elastic._record import Record
from manynet.elastic._rules import rule, tensors_in

__all__: list[str] = []

Args = Sequence[Any]
Kwargs = Mapping[str, Any]


@rule("_local_scalar_dense", "equal", "is_nonzero")
def _read(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    for tensor in tensors_in(args):
        record.freeze(tensor, "its values decide what the code does")


@rule(
    "nonzero", "unique_dim", "_unique2", "unique_consecutive", "histc", "bincount", "searchsorted"
)
def _found(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    for tensor in tensors_in(args):
        record.freeze(tensor, "its values are looked up or counted")
    for tensor in tensors_in(result):
        record.fix(tensor, "its values are looked up or counted")
