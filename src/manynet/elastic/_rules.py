"""How axes pass through ATen operations: the dispatch mode and the registry of rules.

A rule is called after its operation has run, with the record, the operation's arguments and its
result, and records the axes of the result. Element-wise operations need none: PyTorch tags them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from manynet.elastic._axes import Extent, extent, unify
from manynet.elastic._record import Record
from manynet.elastic._remembered import Remembered

__all__ = ["RULES", "SHAPE_ONLY", "Propagation", "Rule", "pointwise", "rule", "tensors_in"]

Rule = Callable[[Record, Sequence[Any], Mapping[str, Any], Any], None]

RULES: dict[str, Rule] = {}
"""The rule of every operation that has one, by the operation's name without its overload."""

SHAPE_ONLY: dict[str, Callable[[Sequence[Any]], Any]] = {}
"""Results without values of operations whose own form on the meta device takes long."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the ATen operations of these names, for example `"aten::mm"`'s `"mm"`."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors in arguments or results: nested tuples, lists and mappings of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)


class Propagation(TorchDispatchMode):
    """Runs every operation as it is and records the axes of what it returns.

    Args:
        record: what is known so far.
        meta: whether the tensors have no values, so that shapes are all that is wanted.
    """

    def __init__(self, record: Record, *, meta: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record
        self._remembered = Remembered() if meta else None
        self._chosen: dict[object, Rule] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation, then its rule."""
        kwargs = kwargs or {}
        chosen = self._chosen.get(func)
        if chosen is None:
            chosen = self._chosen[func] = _choose(func)
        name = func.overloadpacket.__name__
        if self._remembered is None:
            result = func(*args, **kwargs)
        elif name in SHAPE_ONLY:
            result = SHAPE_ONLY[name](args)
        else:
            result = self._remembered(func, args, kwargs)
        chosen(self.record, args, kwargs, result)
        self.record.stream.note(name, args, result)
        return result


def _choose(func: Any) -> Rule:
    name = func.overloadpacket.__name__
    if name in RULES:
        return RULES[name]
    if torch.Tag.pointwise in func.tags or _is_pointwise_in_place(name):
        return pointwise
    return _unknown(str(func.overloadpacket))


def _is_pointwise_in_place(name: str) -> bool:
    """Return whether an operation writes in place what an element-wise one returns."""
    returned = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    return returned is not None and any(
        torch.Tag.pointwise in getattr(returned, overload).tags for overload in returned.overloads()
    )


def _unknown(name: str) -> Rule:
    def freeze_all(
        record: Record, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        given = [*tensors_in(args), *tensors_in(kwargs)]
        if not given:  # a factory: its axes are decided by what it meets
            for tensor in tensors_in(result):
                if tensor.is_floating_point():
                    record.put(tensor, [extent(size) for size in tensor.shape])
            return
        record.unknown.setdefault(name, record.path)
        reason = f"operation {name} in {record.path or 'the model'} has no rule"
        for tensor in given:
            record.freeze(tensor, reason)
        for tensor in tensors_in(result):
            record.fix(tensor, reason)

    return freeze_all


def pointwise(record: Record, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
    """Unite the operands' dimensions as broadcasting lines them up."""
    operands = [*tensors_in(args), *tensors_in(kwargs)]
    for tensor in tensors_in(result):
        rank = tensor.dim()
        dims: list[Extent | None] = [None] * rank
        for operand in operands:
            offset = rank - operand.dim()
            sizes = operand.shape
            for axis, dim in enumerate(record.dims(operand), offset):
                size = sizes[axis - offset]
                if axis < 0 or size == 1 or size != tensor.shape[axis]:
                    continue
                known = dims[axis]
                if known is None:
                    dims[axis] = dim
                elif known is not dim:
                    unify(known, dim)
        record.put(
            tensor,
            [
                extent(size) if dim is None else dim
                for dim, size in zip(dims, tensor.shape, strict=True)
            ],
        )
