"""Rules of the operations that multiply, convolve, normalize, attend, reduce and pool.

Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from manynet.elastic._axes import Extent, concatenate, extent, freeze, size_of, unify
from manynet.elastic._record import Record
from manynet.elastic._rules import SHAPE_ONLY, Rule, pointwise, rule, tensors_in
from manynet.elastic._rules_shape import argument, wrap

__all__ = ["recurrent", "recurrent_shapes"]

Args = Sequence[Any]
Kwargs = Mapping[str, Any]


@rule("mm", "bmm", "matmul")
def _matmul(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    record.put(result, _product(record.dims(args[0]), record.dims(args[1])))


def _product(left: Sequence[Extent], right: Sequence[Extent]) -> list[Extent]:
    unify(left[-1], right[-2])
    for a, b in zip(left[:-2], right[:-2], strict=False):
        unify(a, b)
    return [*left[:-1], right[-1]]


@rule("addmm", "baddbmm", "addmm_")
def _addmm(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = _product(record.dims(args[1]), record.dims(args[2]))
    record.put(result, dims)
    _broadcast(record.dims(args[0]), dims)


def _broadcast(dims: Sequence[Extent], target: Sequence[Extent]) -> None:
    for a, b in zip(reversed(dims), reversed(target), strict=False):
        if a:
            unify(a, b)


@rule("linear")
def _linear(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    source, weight = record.dims(args[0]), record.dims(args[1])
    unify(source[-1], weight[-1])
    if argument(args, 2) is not None:
        unify(record.dims(args[2])[0], weight[0])
    record.put(result, [*source[:-1], weight[0]])


@rule("linalg_solve_triangular")
def _solved(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    triangle, given = record.dims(args[0]), list(record.dims(args[1]))
    solved = -2 if kwargs.get("left", True) else -1
    for dim in (*triangle[-2:], given[solved]):
        freeze(dim, "its order matters")
    for a, b in zip(triangle[:-2], given[:-2], strict=True):
        unify(a, b)
    record.put(result, given)


@rule("mv")
def _mv(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    rows, columns = record.dims(args[0])
    unify(columns, record.dims(args[1])[0])
    record.put(result, [rows])


@rule("dot")
def _dot(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    unify(record.dims(args[0])[0], record.dims(args[1])[0])
    record.put(result, [])


@rule("convolution", "_convolution")
def _convolution(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    source, weight, bias, stride, padding, _, transposed, more, groups = args[:9]
    dims, kernel = record.dims(source), record.dims(weight)
    group = extent(groups)
    inner = extent(weight.shape[0] // groups)
    unify(kernel[0], (*group, *inner))
    if transposed:
        unify(dims[1], kernel[0])
        channels = (*group, *kernel[1])
    else:
        unify(dims[1], (*group, *kernel[1]))
        channels = kernel[0]
    if bias is not None:
        unify(record.dims(bias)[0], channels)
    _freeze_all(kernel[2:], "a kernel")
    space = []
    for axis, dim in enumerate(dims[2:]):
        steps = (_at(stride, axis), _at(padding, axis), _at(more, axis))
        if weight.shape[2 + axis] == 1 and steps == (1, 0, 0):
            space.append(dim)  # position by position: any axis may stand there
        else:
            freeze(dim, "space")
            space.append(extent(result.shape[2 + axis], "space"))
    record.put(result, [dims[0], channels, *space])


def _at(values: Sequence[int], axis: int) -> int:
    return values[axis] if len(values) > 1 else values[0]


def _freeze_all(dims: Iterable[Extent], reason: str) -> None:
    for dim in dims:
        freeze(dim, reason)


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_impl_index",
)
def _batch_norm(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = record.dims(args[0])
    for tensor in args[1:5]:
        if isinstance(tensor, torch.Tensor):
            unify(record.dims(tensor)[0], dims[1])
    record.put(result[0] if isinstance(result, tuple) else result, dims)


def _batch_norm_shapes(args: Args) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = args[0]
    saved = source.new_empty(source.shape[1])
    return torch.empty_like(source), saved, saved


for _name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
    SHAPE_ONLY[_name] = _batch_norm_shapes


def _layer_norm_shapes(args: Args) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source, kept = args[0], args[0].dim() - len(args[1])
    saved = source.new_empty([*source.shape[:kept], *[1] * len(args[1])])
    return torch.empty_like(source), saved, saved


SHAPE_ONLY["native_layer_norm"] = _layer_norm_shapes


@rule("native_layer_norm", "rms_norm", "_fused_rms_norm", "layer_norm")
def _layer_norm(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = record.dims(args[0])
    for tensor in args[2:4]:
        if isinstance(tensor, torch.Tensor):
            _broadcast(record.dims(tensor), dims)
    for tensor in tensors_in(result):
        record.put(
            tensor, [() if size == 1 else dim for dim, size in zip(dims, tensor.shape, strict=True)]
        )


@rule("native_layer_norm_backward")
def _layer_norm_backward(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Forces are the slopes of an energy: their forward pass holds a backward one."""
    dims = record.dims(args[1])
    for a, b in zip(record.dims(args[0]), dims, strict=True):
        unify(a, b)
    for tensor in args[5:7]:
        if isinstance(tensor, torch.Tensor):
            _broadcast(record.dims(tensor), dims)
    for tensor in result:
        if isinstance(tensor, torch.Tensor):
            record.put(tensor, dims[len(dims) - tensor.dim() :])


@rule("native_group_norm")
def _group_norm(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims, groups = record.dims(args[0]), args[6]
    for tensor in args[1:3]:
        if isinstance(tensor, torch.Tensor):
            unify(record.dims(tensor)[0], dims[1])
    channels = size_of(dims[1])
    if 1 < groups < channels:
        unify(dims[1], (*extent(groups, "groups of a norm"), *extent(channels // groups)))
    record.put(result[0], dims)


@rule("_weight_norm_interface", "_weight_norm")
def _weight_norm(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = record.dims(args[0])
    _broadcast(record.dims(args[1]), dims)
    for tensor in tensors_in(result):
        record.put(
            tensor,
            [
                dim if size == size_of(dim) else ()
                for dim, size in zip(dims, tensor.shape, strict=True)
            ],
        )


@rule(
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _attention(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    query, key, value = (record.dims(tensor) for tensor in args[:3])
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    for own, shared, other in zip(query[:-2], key[:-2], value[:-2], strict=True):
        unify(shared, other)
        if size_of(own) != size_of(shared):  # grouped queries: several to a key
            unify(own, (*shared, *extent(size_of(own) // size_of(shared))))
        else:
            unify(own, shared)
    mask = kwargs.get("attn_mask", kwargs.get("attn_bias", argument(args, 3)))
    if isinstance(mask, torch.Tensor):
        for own, scores in zip(
            reversed(record.dims(mask)), reversed([*query[:-1], key[-2]]), strict=False
        ):
            if own and size_of(own) == size_of(scores):
                unify(own, scores)
    output = result if isinstance(result, torch.Tensor) else result[0]
    record.put(output, [*query[:-1], value[-1]])


@rule(
    "all",
    "amax",
    "amin",
    "any",
    "logsumexp",
    "max",
    "mean",
    "min",
    "norm",
    "prod",
    "std",
    "std_mean",
    "sum",
    "var",
    "var_mean",
)
def _reduce(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    axes = argument(args, 1)
    _reduced(record, args[0], axes, result)


@rule("linalg_vector_norm")
def _vector_norm(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    _reduced(record, args[0], argument(args, 2), result)


@rule("argmax", "argmin")
def _arg(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    _reduced(record, args[0], argument(args, 1), result, reason="its positions are reported")


def _reduced(
    record: Record, source: torch.Tensor, axes: Any, result: Any, reason: str | None = None
) -> None:
    dims = record.dims(source)
    rank = len(dims)
    if isinstance(axes, torch.Tensor):  # max(tensor, other)
        pointwise(record, (source, axes), {}, result)
        return
    given = [axes] if isinstance(axes, int) else list(axes or range(rank))
    reduced = {wrap(axis, rank) for axis in given}
    outputs = list(tensors_in(result))
    if reason is None and any(not tensor.is_floating_point() for tensor in outputs[1:]):
        reason = "its positions are reported"
    if reason is not None:
        _freeze_all((dims[axis] for axis in reduced), reason)
    for tensor in outputs:
        if tensor.dim() == rank:
            record.put(tensor, [() if axis in reduced else dim for axis, dim in enumerate(dims)])
        else:
            record.put(tensor, [dim for axis, dim in enumerate(dims) if axis not in reduced])


@rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax")
def _softmax(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    record.put(result, record.dims(args[0]))


def _pool(spatial: int) -> Rule:
    """Return the rule of an operation on the last `spatial` dimensions, positions in space."""

    def pool(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
        dims = record.dims(args[0])
        _freeze_all(dims[-spatial:], "space")
        for tensor in tensors_in(result):
            space = [extent(size, "space") for size in tensor.shape[-spatial:]]
            record.put(tensor, [*dims[:-spatial], *space])

    return pool


rule(
    "adaptive_avg_pool1d",
    "avg_pool1d",
    "reflection_pad1d",
    "replication_pad1d",
    "upsample_linear1d",
    "upsample_nearest1d",
)(_pool(1))
rule(
    "_adaptive_avg_pool2d",
    "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "grid_sampler_2d",
    "max_pool2d_with_indices",
    "reflection_pad2d",
    "replication_pad2d",
    "upsample_bicubic2d",
    "upsample_bilinear2d",
    "upsample_nearest2d",
)(_pool(2))
rule(
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool3d",
    "avg_pool3d",
    "max_pool3d_with_indices",
    "upsample_nearest3d",
    "upsample_trilinear3d",
)(_pool(3))


@rule("_fft_c2c", "_fft_c2r", "_fft_r2c")
def _fourier(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Each frequency is made of all positions, in their order."""
    dims = list(record.dims(args[0]))
    for axis in args[1]:
        freeze(dims[axis], "transformed into frequencies")
        dims[axis] = extent(result.shape[axis], "transformed into frequencies")
    record.put(result, dims)


@rule("_grouped_mm")
def _grouped_mm(record: Record, args: Args, kwargs: Kwargs, result: Any) -> None:
    left, right = args[:2]
    if left.dim() == 2 and right.dim() == 3:
        rows, inner = record.dims(left)
        experts, own, outer = record.dims(right)
        unify(inner, own)
        freeze(experts, "experts")
        record.put(result, [rows, outer])
        return
    record.freeze(left, "a grouped product")
    record.freeze(right, "a grouped product")
    record.fix(result, "a grouped product")


def recurrent(
    record: Record, kind: str, args: Sequence[Any], result: Sequence[torch.Tensor]
) -> None:
    """Tie the weights of a whole LSTM, GRU or plain recurrent network, called as one function.

    Args:
        record: what is known so far.
        kind: `"lstm"`, `"gru"`, `"rnn_tanh"` or `"rnn_relu"`.
        args: as `torch.lstm` takes them: input, state, weights, has biases, layers, dropout,
            training, bidirectional, batch first.
        result: the output, then the states.
    """
    source, _, weights, biases, layers, _, _, two_ways = args[:8]
    packed = not isinstance(args[3], bool)  # torch.lstm(data, batch_sizes, ...)
    if packed:
        for tensor in tensors_in((args, list(result))):
            record.freeze(tensor, "a packed sequence")
        return
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    ways = 2 if two_ways else 1
    each = len(weights) // (layers * ways)
    projected = each - (4 if biases else 2) == 1
    hidden = extent(weights[1].shape[0] // gates)
    emitted = extent(weights[4 if biases else 2].shape[0]) if projected else hidden
    rows = (*extent(gates, "gates"), *hidden)
    below = record.dims(source)[-1]
    for layer in range(layers):
        for way in range(ways):
            start = (layer * ways + way) * each
            _tie_cell(record, weights[start : start + each], rows, below, emitted)
            if projected:
                unify(record.dims(weights[start + each - 1])[1], hidden)
        below = concatenate([emitted] * ways)
    record.put(result[0], [*record.dims(source)[:-1], below])
    for position, tensor in enumerate(result[1:]):
        width = emitted if position == 0 else hidden
        lead = [extent(size, "layers and batch") for size in tensor.shape[:-1]]
        record.put(tensor, [*lead, width])
    for given, tensor in zip(tensors_in(args[1]), result[1:], strict=True):
        unify(record.dims(given)[-1], record.dims(tensor)[-1])


def recurrent_shapes(args: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """Return what a recurrent network would, without values: its output, then its states.

    Args:
        args: as `torch.lstm` takes them, the sequence not packed.
    """
    source, two_ways = args[0], args[7]
    states = list(tensors_in(args[1]))
    width = states[0].shape[-1] * (2 if two_ways else 1)
    output = source.new_empty([*source.shape[:-1], width])
    return output, *(torch.empty_like(state) for state in states)


def _tie_cell(
    record: Record,
    weights: Sequence[torch.Tensor],
    rows: Extent,
    below: Extent,
    emitted: Extent,
) -> None:
    """Tie one cell's weights: from the input, from the state, and the biases of both."""
    unify(record.dims(weights[0])[0], rows)
    unify(record.dims(weights[0])[1], below)
    unify(record.dims(weights[1])[0], rows)
    unify(record.dims(weights[1])[1], emitted)
    for weight in weights[2:]:
        if weight.dim() == 1:
            unify(record.dims(weight)[0], rows)
        else:
            unify(record.dims(weight)[0], emitted)
