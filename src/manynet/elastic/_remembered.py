"""Runs each operation on tensors without values once for the same shapes.

Blocks of a network repeat, and PyTorch works out the shape of many a result in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Remembered"]

_Form = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Remembered:
    """Calls operations on the meta device, or repeats what an equal call has returned.

    Only operations that return new tensors are repeated: what they return depends on nothing but
    shapes, strides and types.
    """

    def __init__(self) -> None:
        self._forms: dict[object, list[_Form]] = {}
        self._new: dict[object, bool] = {}
        """Whether an operation returns new tensors only."""

    def __call__(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return the operation's result."""
        new = self._new.get(func)
        if new is None:
            new = self._new[func] = _returns_new(func)
        if not new:
            return func(*args, **kwargs)
        key = (func, _key(args), _key([*kwargs.items()]))
        try:
            forms = self._forms.get(key)
        except TypeError:  # a generator, for example
            return func(*args, **kwargs)
        if forms is not None:
            made = tuple(_made(form) for form in forms)
            return made if len(made) > 1 else made[0]
        result = func(*args, **kwargs)
        results = result if isinstance(result, tuple) else (result,)
        if all(isinstance(one, Tensor) and one.is_meta for one in results):
            self._forms[key] = [(one.shape, one.stride(), one.dtype) for one in results]
        return result


def _returns_new(func: Any) -> bool:
    given = [*func._schema.arguments, *func._schema.returns]
    tensors = all(isinstance(one.type, torch.TensorType) for one in func._schema.returns)
    return tensors and all(one.alias_info is None for one in given)


def _key(value: object) -> object:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return tuple(map(_key, value))
    return type(value), value  # 1 and 1.0 are equal


def _made(form: _Form) -> Tensor:
    shape, stride, dtype = form
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
