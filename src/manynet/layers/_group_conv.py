"""Convolutions that share by symmetry: one kernel for all pairs that a motion makes equal.

A kernel is a function of the attributes of a pair (`pair_invariants`). Its first part, a small
network, makes a basis that all layers share; each layer's own part is one linear map.

Letters in shapes: `N` nodes, `E` edges, `O` orientations, `A` attributes, `B` basis functions,
`C` channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manynet.layers._invariants import monomials

__all__ = ["GroupConv", "KernelBasis", "SeparableGroupConv", "calibrate_kernels"]


class KernelBasis(nn.Module):
    """The basis functions of kernels: a small network of the monomials of attributes.

    Args:
        attributes: `A`.
        hidden: width of the hidden layer.
        basis: `B`.
        degree: of the monomials.

    Shapes: `(..., A)` to `(..., B)`.

    Example:
        >>> KernelBasis(2, 8, 16)(torch.zeros(5, 2)).shape
        torch.Size([5, 16])
    """

    def __init__(self, attributes: int, hidden: int, basis: int, degree: int = 3) -> None:
        super().__init__()
        self.degree = degree
        inputs = sum(attributes**power for power in range(1, degree + 1))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, basis), nn.GELU()
        )

    def forward(self, attributes: Tensor) -> Tensor:
        """Return the basis functions at these attributes."""
        found: Tensor = self.layers(monomials(attributes, self.degree))
        return found


class SeparableGroupConv(nn.Module):
    """A convolution over positions, then one over orientations, each channel by itself.

    `y_i(o) = sum_j K(e, o) x_j(o)`, then `z_i(o') = mean_o F(o, o') y_i(o) + bias`, where `K` and
    `F` are linear in the two bases. In the first forward in training mode both are scaled so that
    their outputs vary as much as their inputs, once and for all (`calibrated` says so).

    Args:
        channels: `C`.
        basis: `B`.
        orientations: whether there are any; without, it ends with `y` and the bias.

    Shapes:
        Signal `(N, O, C)`, edges `(2, E)` of senders and receivers, basis of positions `(E, O, B)`
        and of orientations `(O, O, B)`, summed over its first dimension; output `(N, O, C)`.

    Reference: Bekkers et al. 2024, arXiv 2310.02970, section 3.3; calibration is the code's.

    Example:
        >>> conv = SeparableGroupConv(4, 8)
        >>> x, edges = torch.randn(3, 6, 4), torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> conv(x, edges, torch.randn(3, 6, 8), torch.randn(6, 6, 8)).shape
        torch.Size([3, 6, 4])
    """

    calibrated: Tensor

    def __init__(self, channels: int, basis: int, *, orientations: bool = True) -> None:
        super().__init__()
        self.kernel = nn.Linear(basis, channels, bias=False)
        self.fiber = nn.Linear(basis, channels, bias=False) if orientations else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("calibrated", torch.tensor(False))

    def forward(
        self, x: Tensor, edges: Tensor, spatial: Tensor, fiber: Tensor | None = None
    ) -> Tensor:
        """Return the convolved signal."""
        new = self.training and not self.calibrated
        y = sum_messages(x, edges, _kernel(self.kernel, spatial, own=new))
        z = y
        if self.fiber is not None and fiber is not None:
            kernel = _kernel(self.fiber, fiber, own=new)
            z = torch.einsum("noc,opc->npc", y, kernel) / x.shape[1]
        if new:
            self._calibrate(x, y, z)
        return z + self.bias

    @torch.no_grad()
    def _calibrate(self, x: Tensor, y: Tensor, z: Tensor) -> None:
        self.kernel.weight.mul_(x.std() / y.std())
        if self.fiber is not None:
            self.fiber.weight.mul_(y.std() / z.std())
        self.calibrated.fill_(True)


class GroupConv(nn.Module):
    """A convolution over pairs of positions and orientations at once, each channel by itself.

    `z_i(o') = mean_o sum_j K(e, o, o') x_j(o) + bias`. It costs a kernel for each pair of
    orientations on each edge. Where each node has one orientation of its own, it is the layer.

    Args:
        channels: `C`.
        basis: `B`.

    Shapes: signal `(N, O, C)`, edges `(2, E)`, basis `(E, O, O, B)`, the sender's orientation
        first; output `(N, O, C)`.

    Example:
        >>> x, edges = torch.randn(3, 2, 4), torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> GroupConv(4, 8)(x, edges, torch.randn(3, 2, 2, 8)).shape
        torch.Size([3, 2, 4])
    """

    calibrated: Tensor

    def __init__(self, channels: int, basis: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(basis, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("calibrated", torch.tensor(False))

    def forward(
        self, x: Tensor, edges: Tensor, spatial: Tensor, fiber: Tensor | None = None
    ) -> Tensor:
        """Return the convolved signal; there is no basis of orientations alone."""
        new = self.training and not self.calibrated
        kernel = _kernel(self.kernel, spatial, own=new)
        messages = (x[edges[0]][:, :, None] * kernel).mean(1)
        z = _summed(messages, edges, len(x))
        if new:
            with torch.no_grad():
                self.kernel.weight.mul_(x.std() / z.std())
                self.calibrated.fill_(True)
        return z + self.bias


def sum_messages(x: Tensor, edges: Tensor, kernel: Tensor) -> Tensor:
    """Return the sum, at each receiver, of its senders' signals times the kernels."""
    return _summed(x[edges[0]] * kernel, edges, len(x))


def _summed(messages: Tensor, edges: Tensor, nodes: int) -> Tensor:
    start = messages.new_zeros(nodes, *messages.shape[1:])
    return start.index_add(0, edges[1], messages)


def _kernel(layer: nn.Linear, basis: Tensor, *, own: bool) -> Tensor:
    """Return a layer's kernel; of its `own` copy where the weight is about to be scaled."""
    if not own:
        found: Tensor = layer(basis)
        return found
    return nn.functional.linear(basis, layer.weight.clone())


def calibrate_kernels(network: nn.Module, *inputs: Any) -> None:
    """Scale the kernels of a network on some inputs, where that was not done yet.

    A network's first forward in training mode does it too. Call this before you make a family of
    the network: a member may hold copies of shared weights, which it could not scale for all.

    Example:
        >>> conv = SeparableGroupConv(4, 8)
        >>> edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> calibrate_kernels(conv, torch.randn(3, 6, 4), edges, torch.randn(3, 6, 8),
        ...                   torch.randn(6, 6, 8))
        >>> conv.calibrated
        tensor(True)
    """
    before = network.training
    with torch.no_grad():
        network.train()(*inputs)
    network.train(before)
