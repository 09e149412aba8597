"""How large the activations are that go into each weight and come out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from manynet.elastic.importance._calibration import Calibration
from manynet.elastic.importance._scores import Scores

__all__ = ["activation_scores"]

_ATEN = torch.ops.aten


def activation_scores(calibration: Calibration) -> tuple[Scores, Scores]:
    """Return the mean absolute activations that enter each weight, and those that leave it.

    What enters the layer after a norm are the embedding channels, what enters the second layer of
    a feed-forward part its neurons, what enters the projection after attention the heads.

    Reference: Muralidharan et al. 2024, arXiv 2407.14679 (Minitron). Instead of named places, every
    matrix product and convolution with a parameter is watched.
    """
    watch = _Watch(calibration.model)
    with _Plain(), watch:
        calibration.run()
    return watch.entering, watch.leaving


class _Plain(TorchFunctionMode):
    """Does nothing; while it is there, attention takes no path that hides its parts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Sums the activations around every matrix product and convolution with a parameter."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entering: Scores = {}
        self.leaving: Scores = {}
        self._names = {
            parameter.data_ptr(): (name, parameter) for name, parameter in model.named_parameters()
        }
        self._calls: Mapping[object, Callable[[tuple[Any, ...], Tensor], None]] = {
            _ATEN.mm.default: lambda args, out: self._product(args[0], args[1], out),
            _ATEN.addmm.default: lambda args, out: self._product(args[1], args[2], out),
            _ATEN.convolution.default: self._convolution,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        note = self._calls.get(func)
        if note is not None:
            note(args, out)
        return out

    def _product(self, x: Tensor, matrix: Tensor, out: Tensor) -> None:
        """Note a product with a two-dimensional weight, however it lies in memory."""
        name, weight = self._names.get(matrix.data_ptr(), ("", None))
        if weight is None or weight.dim() != 2:
            return
        if matrix.shape == weight.shape and matrix.stride() == weight.stride():
            rows, columns = 0, 1
        elif matrix.shape == weight.shape[::-1] and matrix.stride() == weight.stride()[::-1]:
            rows, columns = 1, 0
        else:
            return
        self._add(self.entering, name, rows, x.abs().float().mean(0))
        self._add(self.leaving, name, columns, out.abs().float().mean(0))

    def _convolution(self, args: tuple[Any, ...], out: Tensor) -> None:
        x, weight, transposed, groups = args[0], args[1], args[6], args[8]
        name, own = self._names.get(weight.data_ptr(), ("", None))
        if own is None or own.shape != weight.shape:
            return
        before, after = _channels(x), _channels(out)
        rows, columns = (1, 0) if not transposed else (0, 1)
        if groups == 1:
            self._add(self.entering, name, rows, before)
            self._add(self.leaving, name, columns, after)
        elif len(before) == len(after) == weight.shape[0]:
            self._add(self.entering, name, 0, before)

    def _add(self, scores: Scores, name: str, dim: int, found: Tensor) -> None:
        found = found.cpu()
        scores[name, dim] = scores[name, dim] + found if (name, dim) in scores else found


def _channels(x: Tensor) -> Tensor:
    return x.abs().float().mean([dim for dim in range(x.dim()) if dim != 1])
