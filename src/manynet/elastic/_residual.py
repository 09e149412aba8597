"""Which modules add their own input to their result: what a member can leave out.

Additions, norms, activations and moves pass on what they are given; products with weights do not.
A module call is residual where a way of such operations, one of them an addition, leads from an
input of the call to its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from manynet.elastic._axes import Extent

__all__ = ["Call", "Frame", "Stream", "main_tensor"]

_FIRST = {
    *("_fused_rms_norm", "_native_batch_norm_legit_no_training", "_to_copy", "_unsafe_view"),
    *("alias", "clone", "constant_pad_nd", "contiguous", "copy", "detach", "div", "div_"),
    *("dropout", "expand", "flatten", "gelu", "hardswish", "hardswish_", "layer_norm"),
    *("native_batch_norm", "native_dropout", "native_group_norm", "native_layer_norm", "permute"),
    *("relu", "relu_", "reshape", "rms_norm", "roll", "silu", "silu_", "slice", "squeeze", "sub"),
    *("t", "transpose", "unsqueeze", "view", "where"),
}
"""Operations that pass on their first tensor."""


@dataclass(slots=True)
class Frame:
    """One running call of a module.

    Args:
        path: the module's path.
        start: how many operations had passed something on before it.
        sources: the floating-point tensors that it was given, by name or by position.
        plain: whether it was given one tensor by position and nothing else.
    """

    path: str
    start: int
    sources: tuple[torch.Tensor, ...]
    plain: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A residual call of a module.

    Args:
        path: the module's path.
        before: the dimensions of the input that it adds.
        after: the dimensions of its result.
        plain: whether an identity could take its place: one tensor in, one out.
    """

    path: str
    before: list[Extent]
    after: list[Extent]
    plain: bool


@dataclass(slots=True)
class Stream:
    """What the operations so far have passed on, from tensor to tensor."""

    count: int = 0
    _passed: dict[int, tuple[tuple[int, bool, tuple[int, ...]], ...]] = field(default_factory=dict)
    """Of each tensor: when it was written, whether by an addition, and what was passed on."""

    def note(self, name: str, args: Sequence[Any], result: Any) -> None:
        """Note which operands an operation passes on to its result."""
        target = result[0] if isinstance(result, (tuple, list)) and result else result
        if not isinstance(target, torch.Tensor) or not target.is_floating_point():
            return
        adds = name in {"add", "add_"}
        if name == "cat":  # what was cut apart and is put together again
            args = args[0]
        if adds or name in {"mul", "mul_"}:
            whole = [a for a in args[:2] if isinstance(a, torch.Tensor) and _fills(a, target)]
            adds = adds and len(whole) == 2
            if len(whole) == 2 and not adds:  # a gate
                return
        elif name == "cat":
            whole = [a for a in args if isinstance(a, torch.Tensor)]
        elif name in _FIRST:
            whole = [a for a in args if isinstance(a, torch.Tensor)][name == "where" :][:1]
        else:
            return
        self.count += 1
        operands = tuple(map(id, whole))
        in_place = id(target) in operands  # what was passed on before still is
        before = self._passed.get(id(target), ()) if in_place else ()
        self._passed[id(target)] = (*before, (self.count, adds, operands))

    def residual(self, frame: Frame, result: torch.Tensor) -> torch.Tensor | None:
        """Return the input of a call that was added on the way to its result, or None."""
        sources = {id(source): source for source in frame.sources}
        pending, seen = [(id(result), False)], set()
        while pending:
            state = pending.pop()
            if state in seen:
                continue
            seen.add(state)
            key, added = state
            if added and key in sources and sources[key].shape == result.shape:
                return sources[key]
            for count, adds, operands in self._passed.get(key, ()):
                if count > frame.start:
                    pending.extend((operand, added or adds) for operand in operands)
        return None


def _fills(operand: torch.Tensor, result: torch.Tensor) -> bool:
    return operand.numel() == result.numel()


def main_tensor(result: Any) -> torch.Tensor | None:
    """Return what a module hands on: its tensor, or the first of its results."""
    if isinstance(result, dict):
        result = next(iter(result.values()), None)
    elif isinstance(result, (tuple, list)) and result:
        result = result[0]
    return result if isinstance(result, torch.Tensor) else None
