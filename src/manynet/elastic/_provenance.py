"""Watches the functions of PyTorch that take sizes, and those that give shapes out.

Where an integer sizes a view, a split or a new tensor, it is bound to that axis. Shapes are given
out in integers that remember their axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from manynet.elastic._axes import flatten, freeze, regroup, unify
from manynet.elastic._origins import Origins, SourcedInt, equate
from manynet.elastic._rules_compute import recurrent, recurrent_shapes
from manynet.elastic._rules_shape import wrap

__all__ = ["Provenance"]


class Provenance(TorchFunctionMode):
    """Watches the functions that take sizes, and gives out shapes that remember their axes.

    Args:
        origins: what is bound to what.
        device: where tensors that the code makes without naming a device are put.
    """

    def __init__(self, origins: Origins, device: torch.device) -> None:
        super().__init__()
        self.origins = origins
        self.record = origins.record
        self.device = device
        self._factories = _device_constructors()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one function, then bind the sizes that it was given."""
        kwargs = kwargs or {}
        name = func.__name__
        if name in _RECURRENT and isinstance(args[0], torch.Tensor):
            return self._recurrent(name, func, args, kwargs)
        if func in self._factories and kwargs.get("device") is None:
            kwargs["device"] = self.device
        result = func(*args, **kwargs)
        handler = _HANDLERS.get(name)
        return result if handler is None else handler(self, args, kwargs, result)

    def _recurrent(self, name: str, func: Any, args: Sequence[Any], kwargs: Any) -> Any:
        with torch._C._DisableTorchDispatch():  # step by step it would be a thousand operations
            shapes_alone = self.device.type == "meta" and isinstance(args[3], bool)
            result = recurrent_shapes(args) if shapes_alone else func(*args, **kwargs)
        recurrent(self.record, name, args, result)
        return result

    def shape(self, tensor: torch.Tensor, shape: torch.Size) -> torch.Size:
        """Return a tensor's shape in integers that remember their axes."""
        return torch.Size(
            [
                SourcedInt(size, dim, self.origins) if size > 1 else size
                for size, dim in zip(shape, self.record.dims(tensor), strict=True)
            ]
        )

    def bind_sizes(self, sizes: Sequence[Any], result: Any, first: int = 0) -> None:
        """Bind the sizes of a new shape to the dimensions of the result, from `first` on."""
        if not isinstance(result, torch.Tensor) or not all(isinstance(s, int) for s in sizes):
            return
        dims = self.record.dims(result)
        for size, dim in zip(sizes, dims[first:], strict=False):
            if int(size) > 1:
                self.origins.bind(size, dim)


Handler = Callable[[Provenance, Sequence[Any], Mapping[str, Any], Any], Any]
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


def _get(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    return mode.shape(args[0], result) if isinstance(result, torch.Size) else result


def _size(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    if isinstance(result, torch.Size):
        return mode.shape(args[0], result)
    axis = args[1] if len(args) > 1 else kwargs["dim"]
    dim = mode.record.dims(args[0])[axis]
    return SourcedInt(result, dim, mode.origins) if result > 1 else result


def _numel(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    if type(result) is not int or result < 2:
        return result
    dims = mode.record.dims(args[0])
    return SourcedInt(result, tuple(node for dim in dims for node in dim), mode.origins)


def _sizes(arguments: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    given = kwargs.get("size", kwargs.get("shape", arguments))
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = given[0]
    return list(given)


def _view(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    mode.bind_sizes(_sizes(args[1:], kwargs), result)
    return result


def _repeat(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    """Bind how often a dimension is repeated: to the outer factor of what comes out."""
    times = _sizes(args[1:], {"size": kwargs["repeats"]} if "repeats" in kwargs else kwargs)
    source = [1] * (len(times) - args[0].dim()) + list(map(int, args[0].shape))
    for count, size, dim in zip(times, source, mode.record.dims(result), strict=True):
        if size == 1:
            mode.origins.bind(count, dim)
        elif int(count) > 1:  # the factor that the rule put there
            mode.origins.bind(count, flatten(dim)[:1])
    return result


def _new(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    given = args[1:] if args and isinstance(args[0], torch.Tensor) else args
    sizes = _sizes(given, kwargs)
    if sizes and isinstance(sizes[0], (tuple, list)):  # full(size, value)
        sizes = list(sizes[0])
    mode.bind_sizes(sizes, result)
    return result


def _unflatten(
    mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    axis = args[1] if len(args) > 1 else kwargs["dim"]
    sizes = args[2] if len(args) > 2 else kwargs["sizes"]
    mode.bind_sizes(list(sizes), result, wrap(axis, args[0].dim()))
    return result


def _split(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    if len(args) > 1:
        sizes = args[1]
    else:
        sizes = kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    axis = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    each = sizes if isinstance(sizes, (tuple, list)) else [sizes] * len(result)
    for size, part in zip(each, result, strict=False):
        if isinstance(size, int) and int(size) == part.shape[axis]:
            mode.origins.bind(size, mode.record.dims(part)[axis])
    return result


def _chunk(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    """Keep the chunks equally long: a member's chunks are cut by their number alone."""
    count = args[1] if len(args) > 1 else kwargs.get("chunks", kwargs.get("indices_or_sections"))
    if not isinstance(count, int):
        return result
    axis = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    first = mode.record.dims(result[0])[axis]
    for part in result[1:]:
        other = mode.record.dims(part)[axis]
        if part.shape[axis] == result[0].shape[axis]:
            equate(first, other)
        else:
            freeze(first, "cut into chunks of other sizes")
            freeze(other, "cut into chunks of other sizes")
    return result


def _narrow(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    axis = args[1] if len(args) > 1 else kwargs["dim"]
    length = args[3] if len(args) > 3 else kwargs["length"]
    if isinstance(length, int):
        mode.origins.bind(length, mode.record.dims(result)[axis])
    return result


def _getitem(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    tensor, index = args
    index = index if isinstance(index, tuple) else (index,)
    if not isinstance(tensor, torch.Tensor) or not any(map(_is_bounded, index)):
        return result
    if not all(
        item is None or item is Ellipsis or isinstance(item, (slice, int)) for item in index
    ):
        return result
    taken = sum(isinstance(item, (slice, int)) for item in index)
    axis = 0
    for item in index:
        if item is Ellipsis:
            axis += tensor.dim() - taken
        elif item is not None:
            if isinstance(item, slice):
                mode.origins.cut(_as_integers(item), mode.record.dims(tensor)[axis])
            axis += 1
    return result


def _as_integers(item: slice) -> slice:
    """Return a slice whose bounds are no tensors: such a bound is a constant as any other."""
    bounds = (item.start, item.stop, item.step)
    return slice(*(int(b) if isinstance(b, torch.Tensor) else b for b in bounds))


def _is_bounded(item: object) -> bool:
    return isinstance(item, slice) and any(
        isinstance(bound, (int, torch.Tensor)) for bound in (item.start, item.stop)
    )


def _convolution(
    mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    """Bind the number of groups to the leading factor of the weight's rows."""
    groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
    if isinstance(groups, SourcedInt):
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        size = weight.shape[0] // int(groups)
        factors = regroup([mode.record.dims(weight)[0]], [int(groups), size])
        if factors is not None:
            mode.origins.bind(groups, factors[0])
    return result


def _broadcast(
    mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    """Tie tensors that are made equally large: where none has size 1, they have to be before."""
    first, *others = (mode.record.dims(tensor) for tensor in result)
    for other in others:
        for a, b in zip(first, other, strict=True):
            equate(a, b)
    return result


def _layer_norm(
    mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    sizes = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    mode.bind_sizes(list(sizes), result, result.dim() - len(sizes))
    return result


def _multi_head(
    mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    """Tie what PyTorch's attention checks: projections as wide as what comes in, cut into heads."""
    if len(args) < 5:
        return result
    width = mode.record.dims(args[0])[-1]
    separate = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    weights = [w for name in separate if isinstance(w := kwargs.get(name), torch.Tensor)]
    for weight in weights:
        unify(mode.record.dims(weight)[0], width)
    factors = regroup([width], [int(args[4]), args[0].shape[-1] // int(args[4])])
    if weights and factors is not None:
        mode.origins.bind(args[3], width)
        mode.origins.bind(args[4], factors[0])
    return result


_CONVOLUTIONS = (
    *("conv1d", "conv2d", "conv3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
_HANDLERS: dict[str, Handler] = {
    "__get__": _get,
    "__getitem__": _getitem,
    "broadcast_tensors": _broadcast,
    "chunk": _chunk,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    "layer_norm": _layer_norm,
    "multi_head_attention_forward": _multi_head,
    "narrow": _narrow,
    **dict.fromkeys(("nelement", "numel"), _numel),
    "repeat": _repeat,
    "rms_norm": _layer_norm,
    "size": _size,
    "split": _split,
    "split_with_sizes": _split,
    "tensor_split": _chunk,
    "unflatten": _unflatten,
    **dict.fromkeys(("expand", "reshape", "view", "broadcast_to"), _view),
    **dict.fromkeys(
        (
            "empty",
            "full",
            "new_empty",
            "new_full",
            "new_ones",
            "new_zeros",
            "ones",
            "rand",
            "randn",
            "zeros",
        ),
        _new,
    ),
}
