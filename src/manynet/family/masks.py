"""The masks of a family's members: look at them, hold what they use, store them as bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from manynet.bindings.axes import axes_of
from manynet.bindings.bits import Bits
from manynet.bindings.hold import Hold
from manynet.bindings.mask import Mask, TopK, all_but_smallest
from manynet.bindings.operation import ByArch, evaluate, sources_of, walk
from manynet.bindings.pack import pack
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import Slice, whole
from manynet.errors import InputError
from manynet.family._family import Family
from manynet.family.blueprint import Blueprint
from manynet.space import Arch, Value

__all__ = [
    "fixed_masks",
    "hold",
    "lift",
    "mask_scores",
    "masks_of",
    "own_and_shared",
    "pack_masks",
    "prune",
]


@torch.no_grad()
def masks_of(family: Family, arch: Mapping[str, Value]) -> dict[str, Tensor]:
    """Return which entries of each masked weight the member of `arch` uses, by the weight's name.

    Args:
        family: with weights that are bound to a `Mask`.
        arch: the member's; choices that it leaves out are taken from the largest.

    Example:
        >>> from manynet import bind
        >>> from manynet.bindings.recipes import masked
        >>> family = bind(torch.nn.Linear(4, 5), "weight", masked(0.25, tasks=2))
        >>> int(masks_of(family, {"task": 1})["weight"].sum())
        5
    """
    shared = family.state_dict()
    return {
        name: evaluate(mask.keep.at(family.space.arch(arch), {}), shared).bool()
        for name, mask in _masks(family).items()
    }


def mask_scores(family: Family, arch: Mapping[str, Value]) -> dict[str, str]:
    """Return the names of the scores behind the masks of a member, by the masked weight's name.

    Raises:
        InputError: a mask has no scores, or none any more.
    """
    known = {name for name, _ in family.named_parameters()}
    found: dict[str, str] = {}
    for name, mask in _masks(family).items():
        sources = sources_of(mask.keep.at(family.space.arch(arch), {}))
        if len(sources) != 1 or sources[0] not in known:
            raise InputError(
                f"the mask of {name} is made of {', '.join(sources)}, not of one tensor of scores; "
                "was it packed already?"
            )
        found[name] = sources[0]
    return found


@torch.no_grad()
def hold(family: Family, archs: Iterable[Mapping[str, Value]]) -> None:
    """Let no training move what the masks of these members use: they stay exactly as they are.

    All else becomes free, what an earlier call held included. It takes a family whose weights are
    bound with `masked(hold=True)`, and optimizers that the family guards, as those of `train` are.

    Args:
        family: whose weights are held.
        archs: the members that shall stay; none of them frees all.

    Raises:
        InputError: the family has no weight that can be held.

    Reference: Yadav and Bansal 2023, arXiv 2210.10209 (the exclusive sets of ExSSNeT).
    """
    masks = [masks_of(family, arch) for arch in archs]
    shared, places = family.state_dict(), _places(family)
    if not places:
        raise InputError(
            "no weight of the family can be held; bind them with "
            "manynet.bindings.recipes.masked(…, hold=True)"
        )
    for name, (place, shape) in places.items():
        free = torch.ones(shape, dtype=torch.bool, device=family.device)
        for mask in masks:
            free &= ~mask[name]
        shared[place].copy_(pack(free, 1))


def _places(family: Family) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the name and the shape of the buffer that says which entries of a weight are free."""
    return {
        name: (bits.packed.reads[0], bits.shape)
        for name, binding in family.blueprint.bindings.items()
        for held in walk(binding)
        if isinstance(held, Hold)
        for bits in walk(held.free)
        if isinstance(bits, Bits)
    }


def own_and_shared(
    family: Family, arch: Mapping[str, Value], others: Iterable[Mapping[str, Value]]
) -> tuple[set[str], set[str]]:
    """Return the names of the bound parameters that only the member of `arch` reads, and the rest.

    Args:
        family: whose parameters they are.
        arch: the member.
        others: the members that it may share parameters with.

    Example:
        >>> from manynet import bind
        >>> from manynet.bindings.recipes import masked
        >>> family = bind(torch.nn.Linear(4, 5), "weight", masked(0.25, tasks=2))
        >>> own_and_shared(family, {"task": 1}, [{"task": 0}])
        ({'weight.scores1'}, {'weight'})
    """
    known = {name for name, _ in family.named_parameters()}
    mine = _read_by(family, arch) & known
    theirs: set[str] = set().union(*(_read_by(family, other) for other in others))
    return mine - theirs, mine & theirs


def _read_by(family: Family, arch: Mapping[str, Value]) -> set[str]:
    whole_arch = family.space.arch(arch)
    sizes = family._sizes(whole_arch)
    readings = (binding.at(whole_arch, sizes) for binding in family.blueprint.bindings.values())
    return {name for reading in readings for name in sources_of(reading)}


def pack_masks(family: Family) -> Family:
    """Return the family with learned masks as bits: an entry takes one, its score took 32.

    The members stay the same. Masks of a density that the arch decides, and those that something
    cuts, keep their scores. The new family owns the weights from now on.

    Example:
        >>> from manynet import bind
        >>> from manynet.bindings.recipes import masked
        >>> family = bind(torch.nn.Linear(16, 16), "weight", masked(0.25, tasks=4))
        >>> scores, weights = 4 * 16 * 16 * 4, 16 * 16 * 4 + 16 * 4
        >>> sum(tensor.nbytes for tensor in family.state_dict().values()) == weights + scores
        True
        >>> sum(tensor.nbytes for tensor in pack_masks(family).state_dict().values())
        1216
    """
    extra: dict[str, Tensor] = dict(family.extra)
    bindings = {
        name: _packed(binding, family, extra) for name, binding in family.blueprint.bindings.items()
    }
    read = {name for binding in bindings.values() for name in binding.reads}
    before = {name for binding in family.blueprint.bindings.values() for name in binding.reads}
    blueprint = dataclasses.replace(family.blueprint, bindings=bindings)
    assert isinstance(blueprint, Blueprint)
    packed = Family(
        family.shared,
        family.space,
        blueprint,
        extra={name: t for name, t in extra.items() if name in read or name not in before},
        example_inputs=family.example_inputs,
        source=family.source,
    )
    packed.members.update(family.members)
    return packed


def _packed(binding: Any, family: Family, extra: dict[str, Tensor]) -> Any:
    """Return `binding` with bits in place of every mask that can be packed, at any depth."""
    if isinstance(binding, TopK):
        scores, fixed = binding.scores, not isinstance(binding.density, ByArch)
        if not fixed or not isinstance(scores, Slice) or not isinstance(scores.source, str):
            return binding
        if any(axis.frozen is None for dim in scores.dims for axis in axes_of(dim)):
            return binding
        name = f"{scores.source}.bits"
        with torch.no_grad():
            mask = binding.value(Arch({}), family.state_dict()[scores.source])
        extra[name] = pack(mask, 1)
        return Bits(whole(name, extra[name]), tuple(mask.shape))
    if not dataclasses.is_dataclass(binding) or isinstance(binding, type):
        return binding
    changed = {
        field.name: _each(getattr(binding, field.name), family, extra)
        for field in dataclasses.fields(binding)
        if field.init and not field.name.startswith("_")
    }
    same = all(getattr(binding, name) is value for name, value in changed.items())
    return binding if same else dataclasses.replace(binding, **changed)


def _each(value: Any, family: Family, extra: dict[str, Tensor]) -> Any:
    if isinstance(value, tuple):
        items = tuple(_packed(item, family, extra) for item in value)
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else items
    return _packed(value, family, extra)


def fixed_masks(family: Family) -> dict[str, str]:
    """Return the shared weights that a fixed mask lies on, each with the name of its mask.

    Raises:
        InputError: there are none.
    """
    shared, found = family.state_dict(), dict[str, str]()
    for mask in _masks(family).values():
        pair = [b.source for b in (mask.weight, mask.keep) if isinstance(b, Slice)]
        if len(pair) == 2 and all(isinstance(name, str) for name in pair):
            weight, keep = map(str, pair)
            if shared[keep].dtype == torch.bool:
                found[weight] = keep
    if not found:
        raise InputError(
            "no weight of the family has a fixed mask; bind the weights with "
            "manynet.bindings.recipes.prunable()"
        )
    return found


@torch.no_grad()
def prune(
    family: Family, share: float | None = None, *, left: int | None = None, sticky: bool = False
) -> int:
    """Mask the smallest of all weights that have a fixed mask, by one threshold for all layers.

    Of `n` weights, exactly `int(share * n)` are masked, where the product is rounded first; of
    equal ones the first. Those that were masked before take part with the value that is stored for
    them, so they may come back.

    Args:
        family: its weights are bound with `manynet.bindings.recipes.prunable()`.
        share: of the weights that are masked then. Give it or `left`.
        left: how many weights are left.
        sticky: what was masked stays so, and comes first.

    Returns:
        how many weights are masked now.

    Raises:
        InputError: the numbers do not fit, or the family has no fixed masks.

    Example:
        >>> from manynet import bind
        >>> from manynet.bindings.recipes import prunable
        >>> family = bind(torch.nn.Linear(4, 5), "weight", prunable())
        >>> prune(family, 0.7), int((family.extract({}).weight == 0).sum())
        (14, 14)
    """
    shared, names = family.state_dict(), fixed_masks(family)
    sizes = torch.cat([shared[name].detach().abs().flatten() for name in names])
    total = len(sizes)
    if (
        (share is None) == (left is None)
        or not 0 <= (share or 0) <= 1
        or not 0 <= (left or 0) <= total
    ):
        raise InputError(
            f"prune(share={share}, left={left}): give a share from 0 to 1, or how many of the "
            f"{total} weights are left"
        )
    count = total - left if left is not None else int(round((share or 0) * total, 6))
    if sticky:
        masked = torch.cat([~shared[keep].flatten() for keep in names.values()])
        sizes = sizes.masked_fill(masked, -1.0)
        count = max(count, int(masked.sum()))
    kept = all_but_smallest(sizes, count)
    parts = kept.split([shared[name].numel() for name in names])
    for keep, part in zip(names.values(), parts, strict=True):
        shared[keep].copy_(part.view_as(shared[keep]))
    return count


@torch.no_grad()
def lift(family: Family) -> None:
    """Take all fixed masks off: every weight counts and trains again.

    Raises:
        InputError: the family has no fixed masks.
    """
    shared = family.state_dict()
    for keep in fixed_masks(family).values():
        shared[keep].fill_(True)


def _masks(family: Family) -> dict[str, Mask]:
    found: dict[str, Mask] = {}
    for name, binding in family.blueprint.bindings.items():
        masks: list[Binding] = [b for b in walk(binding) if isinstance(b, Mask)]
        if masks:
            assert isinstance(masks[0], Mask)
            found[name] = masks[0]
    return found
