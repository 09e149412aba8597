"""Rules of operations on regions of images, on bags of words and on pairs of features.

Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from manynet.elastic._axes import Extent, extent, freeze, size_of, unify
from manynet.elastic._record import Record
from manynet.elastic._rules import rule, tensors_in
from manynet.elastic._rules_shape import wrap

__all__: list[str] = []

Args = Sequence[Any]
Kwargs = Mapping[str, Any]


@rule("deform_conv2d")
def _deformed(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    source, weight, offset, mask, bias = args[:5]
    groups, offset_groups = args[11], args[12]
    dims, kernel = record.dims(source), record.dims(weight)
    group = extent(groups)
    unify(kernel[0], (*group, *extent(weight.shape[0] // groups)))
    unify(dims[1], (*group, *kernel[1]))
    if offset_groups > 1:
        fixed = extent(offset_groups, "groups of offsets")
        unify(dims[1], (*fixed, *extent(source.shape[1] // offset_groups)))
    if bias is not None:
        unify(record.dims(bias)[0], kernel[0])
    for dim in (*dims[2:], *kernel[2:], *record.dims(offset)[1:], *record.dims(mask)[1:]):
        freeze(dim, "where a deformable convolution reads")
    space = [extent(size, "space") for size in result.shape[2:]]
    record.put(result, [dims[0], kernel[0], *space])


@rule("roi_align", "roi_pool")
def _pooled_regions(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = record.dims(args[0])
    for dim in (dims[0], *dims[2:]):
        freeze(dim, "where regions lie")
    record.freeze(args[1], "regions")
    for tensor in tensors_in(result):
        regions, *space = (extent(tensor.shape[axis], "regions") for axis in (0, 2, 3))
        record.put(tensor, [regions, dims[1], *space])


@rule("nms")
def _kept_regions(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    for tensor in args[:2]:
        record.freeze(tensor, "regions")
    record.fix(result, "regions")


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _bags(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    entries, width = record.dims(args[0])
    freeze(entries, "a vocabulary")
    output, *others = tensors_in(result)
    record.put(output, [extent(output.shape[0], "bags"), width])
    for tensor in others:
        record.fix(tensor, "bags")


@rule("_cdist_forward", "_euclidean_dist")
def _distances(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    left, right = record.dims(args[0]), record.dims(args[1])
    unify(left[-1], right[-1])
    for a, b in zip(left[:-2], right[:-2], strict=False):
        if size_of(a) == size_of(b):
            unify(a, b)
    lead = left[:-2] if len(left) >= len(right) else right[:-2]
    record.put(result, [*lead, left[-2], right[-2]])


@rule("vdot")
def _vdot(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    unify(record.dims(args[0])[0], record.dims(args[1])[0])
    record.put(result, [])


@rule("_trilinear")
def _trilinear(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Multiply three tensors, each expanded at some dimensions, and sum over others."""
    tensors, expanded, summed = args[:3], args[3:6], args[6]
    rank = tensors[0].dim() + len(expanded[0])
    product: list[Extent | None] = [None] * rank
    for tensor, missing in zip(tensors, expanded, strict=True):
        skipped = {wrap(axis, rank) for axis in missing}
        places = [axis for axis in range(rank) if axis not in skipped]
        for axis, dim in zip(places, record.dims(tensor), strict=True):
            known = product[axis]
            if known is None or size_of(known) == 1:
                product[axis] = dim
            elif size_of(dim) > 1:
                unify(known, dim)
    gone = {wrap(axis, rank) for axis in summed}
    assert isinstance(result, torch.Tensor)
    record.put(result, [dim or () for axis, dim in enumerate(product) if axis not in gone])
