"""`Mix`: a weighted sum of weights: experts, slices of several widths, atoms of a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Mix"]


@dataclass(frozen=True)
class Mix(Operation, kind="mix"):
    """The sum of the atoms, each times its coefficient.

    Atoms of different shapes are padded with zeros at their ends to the largest.

    Args:
        atoms: what is mixed. A single one is a dictionary: its first dimension counts the atoms.
        coefficients: one number an atom, or `(rows, atoms)`: one for each row of the weight and
            each atom, as a neuron-wise router gives them.
        softmax: whether the coefficients are logits, so that those of a mix are positive and sum
            to one.

    Reference: Liu et al. 2019, arXiv 1806.09055 (DARTS); Zhussip et al. 2026, arXiv 2508.04581
    (dictionaries); Jawahar et al. 2023, arXiv 2306.04845 (experts).
    """

    atoms: tuple[Binding, ...]
    coefficients: Binding
    softmax: bool = False

    def value(self, arch: Arch, atoms: tuple[Tensor, ...], coefficients: Tensor) -> Tensor:
        """Return the mixture."""
        share = coefficients.softmax(-1) if self.softmax else coefficients
        stack: Sequence[Tensor] | Tensor = atoms[0] if len(self.atoms) == 1 else _padded(atoms)
        if share.shape[-1] != len(stack):
            raise InputError(
                f"a mix of {len(stack)} atoms has {share.shape[-1]} coefficients; give one an atom"
            )
        if isinstance(stack, Tensor) and share.dim() == 1:
            mixture: Tensor = _Sum.apply(share, stack)
            return mixture
        total = torch.zeros_like(stack[0])
        for number, atom in enumerate(stack):
            own = share[..., number]
            total = (
                total
                + own.view(own.shape + (1,) * (atom.dim() - own.dim() if own.dim() else 0)) * atom
            )
        return total


class _Sum(torch.autograd.Function):
    """A dictionary's mixture. PyTorch's own gradient of the atoms lies transposed in memory."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, atoms: Tensor) -> Tensor:
        ctx.save_for_backward(share, atoms)
        return (share @ atoms.flatten(1)).view(atoms.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        share, atoms = ctx.saved_tensors
        of_share, of_atoms = ctx.needs_input_grad
        return (
            atoms.flatten(1) @ grad.flatten() if of_share else None,
            torch.outer(share, grad.flatten()).view(atoms.shape) if of_atoms else None,
        )


def _padded(atoms: Sequence[Tensor]) -> list[Tensor]:
    shape = [max(sizes) for sizes in zip(*(atom.shape for atom in atoms), strict=True)]
    padded = []
    for atom in atoms:
        lacks = [n - own for n, own in zip(shape, atom.shape, strict=True)]
        ends = [end for lack in reversed(lacks) for end in (0, lack)]
        padded.append(functional.pad(atom, ends) if any(lacks) else atom)
    return padded
