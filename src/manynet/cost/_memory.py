"""Peak activation memory of one forward pass."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from manynet._inputs import Inputs, device_of, evaluating, moved, tensors_in, with_batch
from manynet.cost._cost import Cost

__all__ = ["peak_memory"]


def peak_memory(*, batch: int = 1) -> Cost:
    """Cost: bytes of inputs, activations and outputs that are alive at once, at the worst moment.

    On the CPU every tensor is followed from its making to its release, so the figure is exact and
    the same in every run; the scratch space inside a kernel is not seen. On CUDA it is what
    PyTorch's allocator handed out above what was held before, in its blocks of 512 bytes, scratch
    space included. Parameters and buffers are not in it: see `bytes`.

    Args:
        batch: samples in the forward pass.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
        >>> peak_memory()(net, torch.zeros(1, 4))  # 4 inputs, 8 hidden, 2 outputs of 4 bytes
        56.0
    """

    def function(member: nn.Module, inputs: Inputs) -> float:
        device = device_of(member)
        inputs = tuple(
            v.clone() if isinstance(v, Tensor) else v
            for v in moved(with_batch(inputs, batch), device)
        )
        with evaluating(member), torch.inference_mode():
            count = _peak_on_cuda if device.type == "cuda" else _peak_by_lifetimes
            return float(count(member, inputs, device))

    return Cost("peak_memory", "bytes", function, measured=True)


def _peak_on_cuda(member: nn.Module, inputs: Inputs, device: torch.device) -> int:
    """Ask the allocator; a first pass lets the libraries take what they keep."""
    member(*inputs)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    member(*inputs)
    torch.cuda.synchronize(device)
    held = sum(v.untyped_storage().nbytes() for v in inputs if isinstance(v, Tensor))
    return torch.cuda.max_memory_allocated(device) - before + held


def _peak_by_lifetimes(member: nn.Module, inputs: Inputs, device: torch.device) -> int:
    """Follow the life of every storage that the forward pass makes."""
    mode = _Lifetimes([*member.parameters(), *member.buffers()])
    mode.follow(inputs)
    with mode:
        member(*inputs)
    return mode.peak


class _Lifetimes(TorchDispatchMode):
    """Adds up the bytes of the storages that are alive, and remembers the most."""

    def __init__(self, owned: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch's own
        self.now = self.peak = 0
        self._known: set[int] = {_address(tensor) for tensor in owned}

    def follow(self, values: object) -> None:
        """Count the storages of these tensors from now on until they die."""
        for tensor in tensors_in(values):
            storage = tensor.untyped_storage()
            address = storage._cdata
            if address in self._known:
                continue
            self._known.add(address)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, address, storage.nbytes())

    def _release(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.follow(out)
        return out


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
