"""Steps of an optimizer that leave alone what no member touched."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings.leaf import Touched
from manynet.bindings.protocol import Part

__all__ = ["Guard"]


class Guard:
    """Puts untouched entries aside before a step and back after it, state included.

    Where a step's members together touched all of a parameter, as a sandwich does, this costs
    nothing. A parameter that nothing touched is left out of the step altogether.

    Args:
        parameters: the shared parameters, by name.
        touched: the parts that gradients have reached; cleared after each step.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], touched: Touched) -> None:
        self._parameters = parameters
        self._touched = touched
        self._kept: list[tuple[nn.Parameter, Tensor, Tensor, dict[str, Tensor]]] = []
        self._set_aside: list[tuple[nn.Parameter, Tensor]] = []
        self._attached: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Register this guard with `optimizer`; a second call for the same one does nothing."""
        if optimizer in self._attached:
            return
        self._attached.add(optimizer)
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        masks, reached = self._touched.masks(), self._touched.parts
        for name, parameter in self._parameters.items():
            if parameter.grad is None or id(parameter) not in owned:
                continue
            parts = reached.get(name, set())
            if not parts and name not in masks:
                self._set_aside.append((parameter, parameter.grad))
                parameter.grad = None
            elif not any(part.whole for part in parts):
                mask = _mask(parameter, parts)
                if name in masks:
                    mask |= masks[name]
                if not bool(mask.all()):
                    self._keep(optimizer, parameter, mask)

    def _keep(
        self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter, mask: Tensor
    ) -> None:
        state = {
            key: value.clone()
            for key, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }
        self._kept.append((parameter, mask, parameter.detach().clone(), state))

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, mask, value, state in self._kept:
            parameter.copy_(torch.where(mask, parameter, value))
            for key, now in optimizer.state.get(parameter, {}).items():
                if isinstance(now, Tensor) and now.shape == parameter.shape:
                    before = state.get(key)
                    now.copy_(torch.where(mask, now, 0.0 if before is None else before))
        for parameter, grad in self._set_aside:
            parameter.grad = grad
        self._kept.clear()
        self._set_aside.clear()
        self._touched.clear()


def _mask(parameter: Tensor, parts: set[Part]) -> Tensor:
    mask = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    for part in parts:
        block = part.block
        if block is not None:
            mask[block] = True
            continue
        chosen = torch.ones((1,) * parameter.dim(), dtype=torch.bool, device=parameter.device)
        for dim, index in enumerate(part.index):
            row = torch.zeros(parameter.shape[dim], dtype=torch.bool, device=parameter.device)
            row[index if isinstance(index, slice) else torch.from_numpy(index)] = True
            chosen = chosen & row.view([-1 if d == dim else 1 for d in range(parameter.dim())])
        mask |= chosen
    return mask
