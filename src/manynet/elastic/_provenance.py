"""Where the integers of a forward pass come from, and which axes they size.

For the trace the integer attributes of modules, and the elements of `x.shape`, are integers that
remember their origin, through `* // + - %` too. Where one sizes a view, a split or a new tensor,
or is found equal to another, it is bound to that axis: so a member's attributes are computed, not
guessed, an assumption that the code makes becomes a union of axes, and a literal freezes its axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from manynet.elastic._axes import Extent, concatenate, extent, flatten, freeze, size_of, unify
from manynet.elastic._record import Record
from manynet.elastic._rules_compute import recurrent
from manynet.elastic._rules_shape import wrap

__all__ = ["Attribute", "Formula", "Origins", "Provenance", "SourcedInt"]

COMPUTED = "sized by a computation that cannot be followed"
CONSTANT = "sized by a constant in the code"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer that a module holds.

    Args:
        path: the module's path.
        name: the attribute's name.
        index: the integer's position where the attribute is a tuple or a list, else None.
    """

    path: str
    name: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Formula:
    """An integer computed from two others."""

    symbol: str
    left: int
    right: int


Source = Extent | Attribute | Formula


class SourcedInt(int):
    """An integer that remembers where it came from; it behaves like any other."""

    source: Source
    origins: Origins

    def __new__(cls, value: int, source: Source, origins: Origins) -> SourcedInt:
        """Return `value` with its source, and with those who are told of what it is equal to."""
        self = super().__new__(cls, value)
        self.source = source
        self.origins = origins
        return self

    def __deepcopy__(self, memo: object) -> SourcedInt:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) if isinstance(other, int) else NotImplemented
        if equal is True and type(other) is not bool:
            self.origins.equal(self, other)
        return equal

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal


def _arithmetic(name: str, symbol: str) -> Callable[[SourcedInt, Any], Any]:
    plain = getattr(int, name)
    reflected = name.startswith("__r")

    def operate(self: SourcedInt, other: Any) -> Any:
        value = plain(self, other)
        if type(value) is not int:
            return value
        source = Formula(symbol, other, self) if reflected else Formula(symbol, self, other)
        return SourcedInt(value, source, self.origins)

    return operate


for _name, _symbol in {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}.items():
    for _form in (f"__{_name}__", f"__r{_name}__"):
        setattr(SourcedInt, _form, _arithmetic(_form, _symbol))


class Origins:
    """Binds integers to the axes that they size.

    Args:
        record: the axes of the tensors.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.attributes: dict[Attribute, Extent] = {}
        self.active = False

    def extent_of(self, value: int) -> Extent | None:
        """Return the axes that an integer stands for, or None where they are not known."""
        if not isinstance(value, SourcedInt):
            return extent(int(value), CONSTANT)
        source = value.source
        if int(value) == 1:
            return ()
        if isinstance(source, tuple):
            return source
        if isinstance(source, Attribute):
            return self.attributes.get(source)
        left, right = self.extent_of(source.left), self.extent_of(source.right)
        if left is None or right is None:
            return None
        if source.symbol == "*":
            return (*left, *right)
        return concatenate([left, right]) if source.symbol == "+" else None

    def bind(self, value: int, dim: Extent) -> None:
        """Note that `value` stands where the size of `dim` must."""
        if size_of(dim) != int(value) or int(value) == 1:
            return
        if not isinstance(value, SourcedInt):
            freeze(dim, CONSTANT)
            return
        source = value.source
        if isinstance(source, tuple):
            unify(source, dim)
        elif isinstance(source, Attribute):
            self.follow(source, dim)
        elif source.symbol == "//":
            self._bind_quotient(source, dim)
        else:
            known = self.extent_of(value)
            if known is None:
                self._give_up(value, dim)
            else:
                unify(known, dim)

    def follow(self, attribute: Attribute, dim: Extent) -> None:
        """Note that an attribute has the size of `dim` in every member."""
        known = self.attributes.get(attribute)
        if known is None:
            self.attributes[attribute] = dim
        else:
            unify(known, dim)

    def _bind_quotient(self, source: Formula, dim: Extent) -> None:
        whole, part = self.extent_of(source.left), self.extent_of(source.right)
        if int(source.left) != int(source.right) * size_of(dim):
            freeze(dim, COMPUTED)
        elif whole is not None and part is not None:
            unify(whole, (*part, *dim))
        elif whole is not None and isinstance(source.right, SourcedInt):
            part = extent(int(source.right))
            unify(whole, (*part, *dim))
            self.bind(source.right, part)
        elif part is not None and isinstance(source.left, SourcedInt):
            self.bind(source.left, (*part, *dim))
        else:
            freeze(dim, COMPUTED)
            self.stop(source.left)
            self.stop(source.right)

    def _give_up(self, value: SourcedInt, dim: Extent) -> None:
        freeze(dim, COMPUTED)
        self.stop(value)

    def stop(self, value: int) -> None:
        """Freeze everything that an integer was computed from."""
        if not isinstance(value, SourcedInt):
            return
        source = value.source
        if isinstance(source, tuple):
            freeze(source, COMPUTED)
        elif isinstance(source, Attribute):
            freeze(self.attributes.setdefault(source, extent(int(value), COMPUTED)), COMPUTED)
        else:
            self.stop(source.left)
            self.stop(source.right)

    def equal(self, left: SourcedInt, right: Any) -> None:
        """Note that the code found two integers equal, and so relies on it."""
        if not self.active:
            return
        known = self.extent_of(left)
        if not isinstance(right, SourcedInt):
            if known is not None:
                freeze(known, "compared with a constant in the code")
        elif known is not None:
            self.bind(right, known)
        elif (other := self.extent_of(right)) is not None:
            self.bind(left, other)

    def cut(self, bounds: slice, dim: Extent) -> None:
        """Bind the bounds of a slice that has been taken of `dim`."""
        size = size_of(dim)
        for bound in (bounds.start, bounds.stop):
            if not isinstance(bound, SourcedInt) or int(bound) == 0:
                continue
            if int(bound) == size:
                self.bind(bound, dim)
                continue
            leading = _leading(dim, int(bound))
            if leading is None:
                self.stop(bound)
            else:
                self.bind(bound, leading)


def _leading(dim: Extent, size: int) -> Extent | None:
    """Return the first `size` positions of a concatenation where a part ends there."""
    flat = flatten(dim)
    if len(flat) != 1 or flat[0].parts is None:
        return None
    taken: list[Extent] = []
    total = 0
    for part in flat[0].parts:
        if total >= size:
            break
        taken.append(part)
        total += size_of(part)
    return concatenate(taken) if total == size and taken else None


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
            result = func(*args, **kwargs)
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


def _sizes(arguments: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    given = kwargs.get("size", kwargs.get("shape", arguments))
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = given[0]
    return list(given)


def _view(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    mode.bind_sizes(_sizes(args[1:], kwargs), result)
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


def _narrow(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    axis = args[1] if len(args) > 1 else kwargs["dim"]
    length = args[3] if len(args) > 3 else kwargs["length"]
    if isinstance(length, int):
        mode.origins.bind(length, mode.record.dims(result)[axis])
    return result


def _getitem(mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    tensor, index = args
    index = index if isinstance(index, tuple) else (index,)
    if not isinstance(tensor, torch.Tensor) or not any(map(_is_sourced, index)):
        return result
    if not all(item is None or item is Ellipsis or isinstance(item, (slice, int)) for item in index):
        return result
    taken = sum(isinstance(item, (slice, int)) for item in index)
    axis = 0
    for item in index:
        if item is Ellipsis:
            axis += tensor.dim() - taken
        elif item is not None:
            if isinstance(item, slice):
                mode.origins.cut(item, mode.record.dims(tensor)[axis])
            axis += 1
    return result


def _is_sourced(item: object) -> bool:
    return isinstance(item, slice) and (
        isinstance(item.start, SourcedInt) or isinstance(item.stop, SourcedInt)
    )


def _layer_norm(
    mode: Provenance, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    sizes = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    mode.bind_sizes(list(sizes), result, result.dim() - len(sizes))
    return result


_HANDLERS: dict[str, Handler] = {
    "__get__": _get,
    "__getitem__": _getitem,
    "layer_norm": _layer_norm,
    "narrow": _narrow,
    "rms_norm": _layer_norm,
    "size": _size,
    "split": _split,
    "split_with_sizes": _split,
    "tensor_split": _split,
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
