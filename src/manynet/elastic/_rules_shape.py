"""Rules of the operations that move, view, cut, join and look up positions.

Importing this module registers them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from manynet.elastic._axes import (
    Extent,
    concatenate,
    extent,
    flatten,
    freeze,
    is_frozen,
    regroup,
    size_of,
    split_parts,
    unify,
)
from manynet.elastic._record import Record
from manynet.elastic._rules import RULES, pointwise, rule, tensors_in

__all__: list[str] = []

Args = Sequence[Any]
Kwargs = Mapping[str, Any]

for _name in (
    "_conj",
    "_prelu_kernel",
    "_to_copy",
    "add",
    "add_",
    "alias",
    "bernoulli",
    "bernoulli_",
    "celu",
    "clamp_",
    "clone",
    "contiguous",
    "copy",
    "copy_",
    "detach",
    "div_",
    "dropout",
    "elu",
    "elu_",
    "empty_like",
    "expand_as",
    "fill_",
    "floor_divide",
    "full_like",
    "gelu_",
    "hardsigmoid_",
    "hardswish",
    "hardswish_",
    "hardtanh",
    "hardtanh_",
    "isin",
    "leaky_relu",
    "leaky_relu_",
    "lift_fresh",
    "logical_not",
    "masked_fill",
    "masked_fill_",
    "mish",
    "mish_",
    "native_dropout",
    "ones_like",
    "rrelu",
    "rrelu_with_noise",
    "selu",
    "silu_",
    "softplus",
    "zero_",
    "zeros_like",
):  # element-wise, though PyTorch does not tag them all so
    RULES[_name] = pointwise


def argument(args: Args, index: int, default: Any = None) -> Any:
    """Return a positional argument, or its default where the call left it out."""
    return args[index] if len(args) > index else default


def wrap(axis: int, rank: int) -> int:
    """Return the position of a dimension that may be counted from the end."""
    return axis + rank if axis < 0 else axis


@rule("t")
def _t(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    record.put(result, record.dims(args[0])[::-1])


@rule("transpose", "transpose_", "swapaxes")
def _transpose(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    first, second = wrap(args[1], len(dims)), wrap(args[2], len(dims))
    dims[first], dims[second] = dims[second], dims[first]
    record.put(result, dims)


@rule("permute")
def _permute(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = record.dims(args[0])
    record.put(result, [dims[axis] for axis in args[1]])


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    if not isinstance(argument(args, 1), (list, tuple)):  # view(dtype)
        pointwise(record, args[:1], {}, result)
        return
    dims = regroup(record.dims(args[0]), result.shape)
    record.put(result, dims or [extent(size, "viewed across its factors") for size in result.shape])


@rule("as_strided", "as_strided_")
def _as_strided(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    if result is args[0]:
        return
    if args[0].shape == result.shape:
        record.put(result, record.dims(args[0]))
        return
    record.freeze(args[0], "read with strides")
    record.fix(result, "read with strides")


@rule("expand", "repeat")
def _expand(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    source, dims = args[0], record.dims(args[0])
    added = result.dim() - source.dim()
    expanded: list[Extent] = []
    for axis, size in enumerate(result.shape):
        old = source.shape[axis - added] if axis >= added else 1
        if old == size:
            expanded.append(dims[axis - added] if axis >= added else ())
        elif old == 1:
            expanded.append(extent(size))
        else:
            expanded.append((*extent(size // old, "repeated"), *dims[axis - added]))
    record.put(result, expanded)


@rule("unsqueeze", "unsqueeze_")
def _unsqueeze(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    dims.insert(wrap(args[1], result.dim()), ())
    record.put(result, dims)


@rule("squeeze", "squeeze_")
def _squeeze(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = record.dims(args[0])  # of before: in place, the tensor itself has fewer by now
    axes = _axes(argument(args, 1), len(dims))
    record.put(
        result,
        [dim for axis, dim in enumerate(dims) if not (axis in axes and size_of(dim) == 1)],
    )


def _axes(axes: Any, rank: int) -> list[int]:
    if axes is None or axes == []:
        return list(range(rank))
    return [wrap(axis, rank) for axis in ([axes] if isinstance(axes, int) else axes)]


@rule("select", "select_copy")
def _select(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    freeze(dims.pop(wrap(args[1], len(dims))), "one position is picked by its number")
    record.put(result, dims)


@rule("select_backward")
def _select_backward(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims, axis = list(record.dims(args[0])), wrap(args[2], result.dim())
    dims.insert(axis, extent(result.shape[axis], "one position is picked by its number"))
    record.put(result, dims)


@rule("unbind")
def _unbind(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    freeze(dims.pop(wrap(argument(args, 1, 0), len(dims))), "unbound into a fixed number")
    for tensor in result:
        record.put(tensor, dims)


@rule("stack")
def _stack(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0][0]))
    for tensor in args[0][1:]:
        _unify_all(dims, record.dims(tensor))
    dims.insert(wrap(argument(args, 1, 0), result.dim()), extent(len(args[0]), "stacked"))
    record.put(result, dims)


def _unify_all(left: Sequence[Extent], right: Sequence[Extent]) -> None:
    for a, b in zip(left, right, strict=True):
        unify(a, b)


@rule("cat")
def _cat(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    tensors = [tensor for tensor in args[0] if tensor.dim() == result.dim()]
    axis = wrap(argument(args, 1, 0), result.dim())
    dims = list(record.dims(tensors[0]))
    for tensor in tensors[1:]:  # those of no positions too: they must fit in all else
        others = list(record.dims(tensor))
        others[axis] = dims[axis]
        _unify_all(dims, others)
    parts = [record.dims(tensor)[axis] for tensor in tensors if tensor.shape[axis]]
    dims[axis] = concatenate(parts) if parts else extent(0, "empty")
    record.put(result, dims)


@rule(
    "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "tensor_split"
)
def _split(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    axis = wrap(argument(args, 2, 0), len(dims))
    sizes = [tensor.shape[axis] for tensor in result]
    parts = iter(split_parts(dims[axis], [size for size in sizes if size]))
    for tensor, size in zip(result, sizes, strict=True):
        dims[axis] = next(parts) if size else extent(0, "empty")
        record.put(tensor, dims)


@rule("glu")
def _glu(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    axis = wrap(argument(args, 1, -1), len(dims))
    half = result.shape[axis]
    values, gates = split_parts(dims[axis], [half, half])
    unify(values, gates)
    dims[axis] = values
    record.put(result, dims)


@rule("slice", "narrow")
def _slice(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    source, dims = args[0], list(record.dims(args[0]))
    axis = wrap(argument(args, 1, 0), source.dim())
    size, kept = source.shape[axis], result.shape[axis]
    if kept != size:
        start, step = argument(args, 2) or 0, argument(args, 4, 1)
        start = max(0, start + size) if start < 0 else start
        dims[axis] = _cut(dims[axis], start, kept, step)
    record.put(result, dims)


def _cut(dim: Extent, start: int, kept: int, step: int) -> Extent:
    size = size_of(dim)
    if is_frozen(dim) or kept == 0:
        freeze(dim, "sliced")
        return extent(kept, "sliced")
    if step > 1 and size == kept * step and start < step:
        strided = extent(kept)
        unify(dim, (*strided, *extent(step, "read with a stride")))
        return strided
    if step != 1:
        freeze(dim, "read with a stride")
        return extent(kept, "read with a stride")
    sizes = [part for part in (start, kept, size - start - kept) if part]
    return split_parts(dim, sizes)[1 if start else 0]


@rule("index", "_unsafe_index")
def _index(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = record.dims(args[0])
    picked = _picked(args[1])
    for axis in picked:
        freeze(dims[axis], "looked up by number")
    kept = [dim for axis, dim in enumerate(dims) if axis not in picked]
    adjacent = picked == list(range(picked[0], picked[0] + len(picked)))
    at = picked[0] if adjacent else 0
    new = [
        extent(size, "looked up by number")
        for size in result.shape[at : at + result.dim() - len(kept)]
    ]
    record.put(result, [*kept[:at], *new, *kept[at:]])


def _picked(indices: Sequence[torch.Tensor | None]) -> list[int]:
    """Return the dimensions that indices pick positions of; a mask picks in all of its own."""
    picked: list[int] = []
    axis = 0
    for index in indices:
        mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        count = index.dim() if index is not None and mask else 1
        picked += range(axis, axis + count) if index is not None else ()
        axis += count
    return picked


@rule("index_put", "index_put_", "_index_put_impl_")
def _index_put(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    target, indices, values = args[:3]
    dims = record.dims(target)
    picked = _picked(indices)
    for axis in picked:
        freeze(dims[axis], "looked up by number")
    kept = [dim for axis, dim in enumerate(dims) if axis not in picked]
    for a, b in zip(reversed(kept), reversed(record.dims(values)), strict=False):
        if size_of(a) == size_of(b):
            unify(a, b)
    record.put(result, dims)


@rule("embedding")
def _embedding(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    entries, width = record.dims(args[0])
    freeze(entries, "a vocabulary")
    record.put(result, [*record.dims(args[1]), width])


@rule("index_select")
def _index_select(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    _fix_axis(record, args[0], wrap(args[1], args[0].dim()), result, "looked up by number")


@rule("topk")
def _topk(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    _fix_axis(record, args[0], wrap(argument(args, 2, -1), args[0].dim()), result, "ranked")


@rule("sort", "argsort")
def _sort(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    axis = kwargs.get("dim", argument(args, 1, -1))
    _fix_axis(record, args[0], wrap(axis, args[0].dim()), result, "ranked")


def _fix_axis(record: Record, source: torch.Tensor, axis: int, result: Any, reason: str) -> None:
    dims = list(record.dims(source))
    freeze(dims[axis], reason)
    for tensor in tensors_in(result):
        if tensor.dim() == len(dims):
            dims[axis] = extent(tensor.shape[axis], reason)
            record.put(tensor, dims)
        else:
            record.put(tensor, [*dims[:axis], *dims[axis + 1 :]])


@rule("gather")
def _gather(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    freeze(dims[wrap(args[1], len(dims))], "looked up by number")
    record.put(
        result,
        [
            dim if size_of(dim) == size else extent(size, "looked up by number")
            for dim, size in zip(dims, result.shape, strict=True)
        ],
    )


@rule(
    "scatter",
    "scatter_",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "scatter_reduce_",
    "index_add",
    "index_add_",
    "index_copy",
    "index_copy_",
)
def _scatter(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    target, axis, source = args[0], args[1], argument(args, 3)
    dims = list(record.dims(target))
    axis = wrap(axis, len(dims))
    freeze(dims[axis], "written by number")
    if isinstance(source, torch.Tensor) and source.dim() == len(dims):
        others = record.dims(source)
        freeze(others[axis], "written by number")
        for at, (a, b) in enumerate(zip(dims, others, strict=True)):
            if at != axis and size_of(a) == size_of(b):
                unify(a, b)
    record.put(result, dims)


@rule("roll", "flip")
def _moved(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    source = args[0]
    axes = args[-1] if len(args) > 1 else None
    _ordered(record, source, _axes(axes, source.dim()), result)


@rule("cumsum", "cumprod", "cumsum_", "logcumsumexp", "cummax", "cummin")
def _cumulative(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    _ordered(record, args[0], [wrap(args[1], args[0].dim())], result)


@rule("tril", "triu", "tril_", "triu_")
def _triangle(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    rank = args[0].dim()
    _ordered(record, args[0], [rank - 2, rank - 1], result)


def _ordered(record: Record, source: torch.Tensor, axes: Sequence[int], result: Any) -> None:
    """Keep the dimensions, but freeze those whose positions are told apart by their order."""
    dims = record.dims(source)
    for axis in axes:
        freeze(dims[axis], "its order matters")
    for tensor in tensors_in(result):
        record.put(tensor, dims)


@rule("constant_pad_nd")
def _pad(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    source, dims = args[0], list(record.dims(args[0]))
    pads = [(0, 0)] * (source.dim() - len(args[1]) // 2)
    pads += list(zip(args[1][::2], args[1][1::2], strict=True))[::-1]
    for axis, (before, after) in enumerate(pads):
        if before < 0 or after < 0:
            freeze(dims[axis], "cropped")
            dims[axis] = extent(result.shape[axis], "cropped")
        elif before or after:
            own = dims[axis]
            parts = [
                *([extent(before, "padding")] if before else []),
                own,
                *([extent(after, "padding")] if after else []),
            ]
            dims[axis] = concatenate(parts)
    record.put(result, dims)


@rule("pixel_shuffle")
def _pixel_shuffle(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    *lead, channels, _, _ = record.dims(args[0])
    block = args[1] ** 2
    kept = extent(size_of(channels) // block)
    unify(channels, (*kept, *extent(block, "pixel shuffle")))
    record.put(result, [*lead, kept, *(extent(size, "space") for size in result.shape[-2:])])


@rule("pixel_unshuffle")
def _pixel_unshuffle(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    *lead, channels, _, _ = record.dims(args[0])
    block = extent(args[1] ** 2, "pixel unshuffle")
    space = [extent(size, "space") for size in result.shape[-2:]]
    record.put(result, [*lead, (*channels, *block), *space])


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    groups = extent(args[1], "channel shuffle")
    each = extent(size_of(dims[1]) // args[1])
    unify(dims[1], (*groups, *each))
    dims[1] = (*each, *groups)
    record.put(result, dims)


@rule("im2col")
def _unfold(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    *lead, channels, _, _ = record.dims(args[0])
    window = extent(math.prod(args[1]), "window")
    record.put(result, [*lead, (*channels, *window), extent(result.shape[-1], "space")])


@rule("col2im")
def _fold(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    *lead, columns, _ = record.dims(args[0])
    channels = extent(result.shape[-3])
    unify(columns, (*channels, *extent(math.prod(args[2]), "window")))
    space = [extent(size, "space") for size in result.shape[-2:]]
    record.put(result, [*lead, channels, *space])


@rule("unfold")
def _windows(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(record.dims(args[0]))
    axis = wrap(args[1], len(dims))
    freeze(dims[axis], "window")
    dims[axis] = extent(result.shape[axis], "window")
    record.put(result, [*dims, extent(result.shape[-1], "window")])


@rule("new_zeros", "new_empty", "new_ones", "new_full", "new_empty_strided")
def _factory(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    record.put(result, [extent(size) for size in result.shape])


@rule("exponential_", "normal_", "rand_like", "randn_like", "uniform_")
def _drawn(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Other numbers are drawn for a channel that has another place."""
    pointwise(record, args[:1], {}, result)
    record.freeze(result, "random numbers are drawn along it")


@rule("rand", "randn")
def _drawn_anew(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    record.fix(result, "random numbers are drawn along it")


@rule("arange", "range", "linspace", "logspace")
def _numbered(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    record.fix(result, "numbered in order")


@rule("diagonal", "diag_embed")
def _diagonal(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    record.freeze(args[0], "diagonal")
    record.fix(result, "diagonal")


@rule("flatten")
def _flatten(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = regroup([flatten(dim) for dim in record.dims(args[0])], result.shape)
    record.put(result, dims or [extent(size, "flattened") for size in result.shape])
