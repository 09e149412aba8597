"""Rules of the operations whose results depend on values: counts, tests, masks, look-ups.

Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manynet.elastic._axes import freeze, unify
from manynet.elastic._record import Record
from manynet.elastic._rules import pointwise, rule, tensors_in

__all__: list[str] = []

Args = Sequence[Any]
Kwargs = Mapping[str, Any]


@rule("_local_scalar_dense", "equal", "is_nonzero", "_is_all_true", "_is_any_true")
def _read(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    for tensor in tensors_in(args):
        record.freeze(tensor, "its values decide what the code does")


@rule(
    "nonzero",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "histc",
    "bincount",
    "searchsorted",
    "bucketize",
)
def _found(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    for tensor in tensors_in(args):
        record.freeze(tensor, "its values are looked up or counted")
    for tensor in tensors_in(result):
        record.fix(tensor, "its values are looked up or counted")


@rule("masked_scatter", "masked_scatter_")
def _written(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Follow the last dimensions, along which the mask is one value repeated.

    The source is read in order, so that only there a position of it always meets the same position
    of the target, as the width of the images does that a language model writes into its text.
    """
    target, mask, source = args[:3]
    pointwise(record, args[:2], {}, result)
    dims, others, written = record.dims(target), record.dims(source), record.dims(mask)
    shared = 0
    while shared < min(mask.dim(), source.dim(), target.dim()) and _repeats(
        mask, target, source, -1 - shared
    ):
        shared += 1
    for dim in (*dims[: len(dims) - shared], *others[: len(others) - shared]):
        freeze(dim, "written where a mask says")
    for axis in range(-shared, 0):
        unify(dims[axis], others[axis])
    for dim in written[: len(written) - shared]:
        freeze(dim, "its values say where to write")


def _repeats(mask: Any, target: Any, source: Any, axis: int) -> bool:
    """Return whether a mask is one value repeated along an axis that target and source share."""
    size = target.shape[axis]
    one = mask.shape[axis] == 1 or mask.stride(axis) == 0
    return bool(one and source.shape[axis] == size)
