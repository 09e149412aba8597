"""`relax`: a family's choices become shares, and one network holds all members at once.

Its weights are superpositions: each slice of a weight counts as much as the shares of its sizes.
A forward pass costs what the largest member's costs, however many members there are, and the shares
have gradients. Where all shares are zero or one, it computes what that member computes.

What is no weight is relaxed where the members differ in it:

- A norm over a width takes its statistics over each width by itself, and its outputs are summed by
  their shares; statistics over the padded width would be those of no member.
- A block that some members leave out counts as much as the depths that keep it: `x + share *
  (block(x) - x)`. The paper sums the running outputs of the depths; that is the same for one depth,
  and ours also holds where the blocks left out are not the last ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manynet._inputs import call, evaluating, moved, tensors_in
from manynet.bindings.axes import Axis, length
from manynet.bindings.operation import walk
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import Slice, whole
from manynet.bindings.superpose import Superpose
from manynet.errors import InputError
from manynet.family import Blueprint, Family
from manynet.family.skeleton import Skeleton
from manynet.space import Arch, Space, Value
from manynet.train._relaxed_modules import (
    SuperposedNorm,
    cut_by,
    relax_depths,
    relax_norms,
    sizes_of,
)

__all__ = ["Relaxed", "relax"]

ROUNDING = 1000
"""How far the relaxed network may be from a member: so many times the rounding of its outputs."""


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A family of one network that holds all members of another, and their shares.

    Attributes:
        family: the relaxed one; it reads the same shared weights. `family.at({})` is its network.
        of: the family that it was made of.
        shares: for each choice, how much each value counts, in the order of the values. A backward
            pass adds to their gradients, those of all tensors that a choice cuts together.
    """

    family: Family
    of: Family
    shares: Mapping[str, Tensor]

    def set(self, shares: Mapping[str, Tensor]) -> None:
        """Let the values of each choice count as much as `shares` say, and forget the gradients.

        The network follows when it is called; one that is compiled needs `family.clear()` and
        `family.at({})` before.
        """
        with torch.no_grad():
            for name, own in self.shares.items():
                own.copy_(shares[name])
                own.grad = None

    def only(self, arch: Mapping[str, Value]) -> dict[str, Tensor]:
        """Return the shares with which the network computes what the member of `arch` does."""
        full = {**self.of.space.largest, **arch}
        found = {}
        for name, own in self.shares.items():
            found[name] = torch.zeros_like(own)
            found[name][self.of.space[name].values.index(full[name])] = 1
        return found

    def best(self, scores: Mapping[str, Tensor]) -> Arch:
        """Return the arch of the values with the highest scores, such as shares or logits."""
        values = {n: self.of.space[n].values[int(score.argmax())] for n, score in scores.items()}
        return self.of.space.arch(values)


def relax(family: Family) -> Relaxed:
    """Return one network in which every choice of the family is a sum over its values.

    The weights are the family's own: training the one trains the other. All values of a choice
    start with the same share. It is compared with a small and a large member before it is returned.

    Args:
        family: its choices are widths, heads, kernels or depths, read by slices.

    Raises:
        InputError: a choice is read in another way than by a slice, or a module computes with a
            size in a way that a sum of weights does not follow.

    Example:
        >>> import torch, manynet
        >>> from manynet.train import relax
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Linear(16, 2))
        >>> family = manynet.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> relaxed = relax(family)
        >>> relaxed.set(relaxed.only({"0.width": 8}))
        >>> x = torch.randn(3, 4)
        >>> torch.allclose(relaxed.family.at({})(x), family.at({"0.width": 8})(x), atol=1e-6)
        True

    Reference: Sukthanker et al. 2023, arXiv 2312.10440 (TangleNAS).
    """
    shares = _even(family)
    names = {choice: f"shares.{choice}" for choice in shares}
    reads = {choice: whole(names[choice], share) for choice, share in shares.items()}
    skeleton = Skeleton(family.shared)
    root, parts = skeleton.build({**skeleton.tensors, **family.state_dict()})
    bindings: dict[str, Binding] = {
        **relax_norms(parts, family, reads),
        **relax_depths(parts, family, reads),
    }
    norms = {path for path, part in root.named_modules() if isinstance(part, SuperposedNorm)}
    parameters = {name for name, _ in family.shared.named_parameters()}
    for name, binding in family.blueprint.bindings.items():
        if name in parameters and name.rpartition(".")[0] not in norms:
            bindings[name] = _relaxed(name, binding, family, reads)
    used = {name for binding in bindings.values() for name in binding.reads}
    _check_used({choice for choice, name in names.items() if name not in used})
    relaxed = Relaxed(
        Family(
            root,
            Space(()),
            Blueprint(bindings),
            extra={**family.extra, **{names[choice]: share for choice, share in shares.items()}},
            example_inputs=family.example_inputs,
        ).train(family.training),
        family,
        shares,
    )
    _check(relaxed)
    return relaxed


def _relaxed(name: str, binding: Binding, family: Family, shares: Mapping[str, Binding]) -> Binding:
    """Return how the relaxed network reads a parameter."""
    if not isinstance(binding, Slice):
        cut = [b for b in walk(binding) if isinstance(b, Slice) and cut_by(b.dims, shares)]
        if cut:
            raise InputError(
                f"{name} is read by a {type(binding).__name__}, and only slices can be summed by "
                "their shares; make the family with kernel_transform=False, or keep this whole"
            )
        return binding
    choices = cut_by(binding.dims, shares)
    if not choices:
        return binding
    sizes = tuple(Axis("", length(dim), "whole") for dim in binding.dims)
    return Superpose(
        Slice(binding.source, tuple((axis,) for axis in sizes)),
        binding.dims,
        choices,
        tuple(sizes_of(family, choice) for choice in choices),
        tuple(shares[choice] for choice in choices),
    )


def _even(family: Family) -> dict[str, Tensor]:
    """Return equal shares for each choice, in single precision or the family's if it is higher."""
    kinds = [p.dtype for p in family.parameters() if p.is_floating_point()]
    kind = functools.reduce(torch.promote_types, kinds, torch.float32)
    counts = {choice.name: len(choice.values) for choice in family.space.choices}
    return {
        name: torch.full((n,), 1 / n, dtype=kind, device=family.device).requires_grad_()
        for name, n in counts.items()
    }


def _check_used(unused: set[str]) -> None:
    if unused:
        raise InputError(
            f"the choice {min(unused)!r} is no size of a slice and no depth, and has no sum over "
            "its values; make the family without it, or search without gradients"
        )


@torch.no_grad()
def _check(relaxed: Relaxed) -> None:
    """Run two members both ways, so that what a sum of weights misses is found here."""
    family, inputs = relaxed.of, relaxed.of.example_inputs
    if not inputs:
        return
    even = {name: share.detach().clone() for name, share in relaxed.shares.items()}
    for arch in (family.space.smallest, family.space.largest):
        relaxed.set(relaxed.only(arch))
        far = _distance(family.at(arch), relaxed.family.at({}), moved(inputs, family.device))
        if far > ROUNDING:
            raise InputError(
                f"the relaxed network differs from the member {dict(arch)} by {far:.2g} times the "
                "rounding of its outputs: a module computes with a size in another way than "
                "through its weights, as attention does with the size of a head; leave it whole "
                "with keep=(…)"
            )
    relaxed.set(even)


def _distance(one: nn.Module, other: nn.Module, inputs: tuple[object, ...]) -> float:
    """Return by how much two networks differ, in roundings of the largest output."""
    with evaluating(one), evaluating(other):
        pairs = zip(tensors_in(call(one, inputs)), tensors_in(call(other, inputs)), strict=True)
        parts = [
            float((own - found).abs().max() / own.abs().max().clamp_min(1e-6))
            / torch.finfo(own.dtype).eps
            for own, found in pairs
            if own.is_floating_point() and own.numel()
        ]
    return max(parts, default=0.0)
