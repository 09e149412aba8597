"""What `manynet.bind` takes as `with_`: each binds a group of sites, starting near their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from manynet.bindings.axes import axes_of
from manynet.bindings.bits import Bits
from manynet.bindings.curves import companded, powered
from manynet.bindings.dictionary import dictionary, low_rank
from manynet.bindings.forms import quantized
from manynet.bindings.generate import Generate
from manynet.bindings.hold import Hold
from manynet.bindings.mask import Mask, TopK
from manynet.bindings.mix import Mix
from manynet.bindings.pack import pack
from manynet.bindings.protocol import Binding
from manynet.bindings.route import Route
from manynet.bindings.shard import Shard, draw_index
from manynet.bindings.site import Group, Site, check_counts
from manynet.bindings.slice import Slice
from manynet.bindings.tie import Tie
from manynet.errors import InputError
from manynet.space import Choice, Value

__all__ = [
    "Recipe",
    "companded",
    "dictionary",
    "generated",
    "low_rank",
    "masked",
    "mixed",
    "powered",
    "prunable",
    "quantized",
    "separated",
    "sharded",
    "tied",
]

Recipe = Callable[[Group], Sequence[Binding]]
"""Makes the bindings of a group, one a site."""


def masked(
    density: float = 0.5, *, tasks: int | None = None, seed: int = 0, hold: bool = False
) -> Recipe:
    """Keep the entries of the largest learned scores; with `tasks`, a mask for each, `task`.

    The scores start as the weights' sizes where there is one mask, else at random.

    Args:
        density: the share of entries that are kept.
        tasks: how many masks; None for one without a choice.
        seed: of the random scores, which are uniform up to one over the root of the fan-in.
        hold: let `manynet.hold` keep what some masks use from training.
    """
    if not 0 < density <= 1:
        raise InputError(f"masked({density!r}): density is the share that is kept, above 0 up to 1")
    if tasks is not None:
        check_counts("masked", tasks=tasks)
    generator = torch.Generator().manual_seed(seed)

    def scores(site: Site, number: int | None) -> Binding:
        if number is None:
            value = site.tensor.abs()
        else:
            drawn = torch.rand(site.tensor.shape, generator=generator) * 2 - 1
            value = drawn.to(site.tensor) * max(site.tensor[0].numel(), 1) ** -0.5
        role = "scores" if number is None else f"scores{number}"
        return TopK(site.parameter(role, value, alike=True), density)

    def weight(site: Site) -> Binding:
        if not hold:
            return site.weight
        free = site.buffer("free", pack(torch.ones_like(site.tensor), 1))
        return Hold(site.weight, site.reads(Bits(free, tuple(site.tensor.shape))))

    def apply(group: Group) -> list[Binding]:
        if tasks is None:
            return [Mask(weight(site), scores(site, None)) for site in group.sites]
        numbers = tuple(range(tasks))
        group.choice(Choice("task", numbers))
        return [
            Mask(weight(site), Route("task", numbers, tuple(scores(site, n) for n in numbers)))
            for site in group.sites
        ]

    return apply


def prunable() -> Recipe:
    """Give each weight a mask of truth values that training leaves alone; all are true at first.

    `manynet.prune` sets them, `manynet.lift` makes them true again.
    """

    def apply(group: Group) -> list[Binding]:
        ones = (torch.ones_like(site.tensor, dtype=torch.bool) for site in group.sites)
        masks = zip(group.sites, ones, strict=True)
        return [Mask(site.weight, site.buffer("keep", mask, alike=True)) for site, mask in masks]

    return apply


def separated(choice: str, values: Sequence[Value] | Mapping[Value, Tensor]) -> Recipe:
    """Give each value of a `choice` a tensor of its own, all equal at first.

    Heads of tasks, statistics of norms (`"*.running_*"`), or whole networks that share nothing.

    Args:
        choice: its name; it is a new one.
        values: or a mapping from them to the tensors that they start with, whose sizes may differ
            where the network allows it.

    Example:
        >>> from manynet import bind
        >>> family = bind(torch.nn.BatchNorm1d(3), "running_*", separated("task", (0, 1)))
        >>> _ = family.train().at({"task": 1})(torch.rand(4, 3) + 5)
        >>> family.extract({"task": 0}).running_mean
        tensor([0., 0., 0.])
    """
    given = values if isinstance(values, Mapping) else {}

    def own(site: Site, value: Value) -> Binding:
        make = site.buffer if site.is_buffer else site.parameter
        start = given.get(value, site.tensor).to(site.tensor)
        return make(f"{choice}-{value}", start, alike=start.shape == site.tensor.shape)

    def apply(group: Group) -> list[Binding]:
        group.choice(Choice(choice, tuple(values)))
        return [
            Route(choice, tuple(values), tuple(own(site, value) for value in values))
            for site in group.sites
        ]

    return apply


def tied(*, scale: bool = False) -> Recipe:
    """Let all sites read the weight of the first, each with a `scale` of its rows if asked."""

    def apply(group: Group) -> list[Binding]:
        first = group.sites[0]
        same: dict[object, Binding] = {}
        bound: list[Binding] = []
        for site in group.sites:
            weight = first.weight if site is first else _as_read(first, site)
            if site.binding is None and first.binding is None:
                weight = same.setdefault("whole", weight)
            if scale:
                shape = (-1,) + (1,) * (site.tensor.dim() - 1)
                ones = torch.ones_like(site.tensor[(slice(None),) + (0,) * (len(shape) - 1)])
                weight = Tie(weight, site.parameter("scale", ones.view(shape)))
            bound.append(weight)
        return bound

    return apply


def _as_read(first: Site, site: Site) -> Binding:
    """Return how `site` reads what `first` reads, all that it is bound through included."""
    if first.binding is None:
        return site.reads(first.name)
    dims = (*first.dims, *site.dims)
    elastic = any(axis.frozen is None for dim in dims for axis in axes_of(dim))
    if elastic and isinstance(first.binding, Slice):
        return site.reads(first.binding.source)  # as wide as this site is in a member
    return first.binding


def mixed(atoms: int) -> Recipe:
    """Write each weight as a sum of shared `atoms` with coefficients of its own.

    They start as the best such sums: the leading singular vectors of the group's weights.

    Reference: Zhussip et al. 2026, arXiv 2508.04581 (MASA).
    """
    check_counts("mixed", atoms=atoms)

    def apply(group: Group) -> list[Binding]:
        stack = torch.stack([site.tensor.flatten() for site in group.sites]).float()
        left, size, right = torch.linalg.svd(stack, full_matrices=False)
        count = min(atoms, len(size))
        like = group.sites[0].tensor
        spread = right[:count].norm(dim=1).new_full((count, 1), math.sqrt(right.shape[1]))
        value = (right[:count] * spread).view(count, *like.shape).to(like)
        dictionary = group.parameter("atoms", value)
        own = (left * size)[:, :count] / spread.T
        return [
            site.reads(Mix((dictionary,), site.parameter("coefficients", row.to(like))))
            for site, row in zip(group.sites, own, strict=True)
        ]

    return apply


def sharded(rows: int, entries: int, *, private: int = 0, seed: int = 0) -> Recipe:
    """Draw each weight from one pool of `rows` rows of `entries` numbers, chosen once at random.

    The pool starts with the spread of the group's weights. The last rows of each weight's index are
    `private` ones, which it alone reads.

    Reference: Wang et al. 2025, arXiv 2410.00938 (mixture of shards).
    """
    check_counts("sharded", rows=rows, entries=entries)
    generator = torch.Generator().manual_seed(seed)

    def apply(group: Group) -> list[Binding]:
        like, public = group.sites[0].tensor, rows - private * len(group.sites)
        if private < 0 or public < 0:
            raise InputError(
                f"{len(group.sites)} weights with {private} private rows each do not fit into a "
                f"pool of {rows} rows; give it more rows, or fewer private ones"
            )
        spread = torch.stack([site.tensor.float().std() for site in group.sites]).mean()
        value = torch.randn(rows, entries, generator=generator).to(like) * spread.to(like)
        pool = group.parameter("pool", value)
        bound = []
        for number, site in enumerate(group.sites):
            count = math.ceil(site.tensor.numel() / entries)
            first = public + number * private
            own = range(first, first + min(private, count))
            order = draw_index(generator, count - len(own), public=public, private=own)
            index = site.buffer("index", order.to(like.device))
            bound.append(site.reads(Shard(pool, index, tuple(site.tensor.shape))))
        return bound

    return apply


def generated(
    *, hidden: int = 32, code: int = 8, chunk: int | None = None, seed: int = 0
) -> Recipe:
    """Let one small network make all weights of the group from a code of each site.

    With `chunk`, it makes so many numbers at a time. It starts with outputs that have the spread of
    the group's weights.

    Reference: Ha et al. 2017, arXiv 1609.09106.
    """
    check_counts(
        "generated", hidden=hidden, code=code, **({} if chunk is None else {"chunk": chunk})
    )
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    def apply(group: Group) -> list[Binding]:
        like = group.sites[0].tensor
        most = max(site.tensor.numel() for site in group.sites)
        outputs, inputs = chunk or most, code * (1 if chunk is None else 2)
        spread = torch.stack([site.tensor.float().std() for site in group.sites]).mean()
        layers = (
            group.parameter("in_weight", normal(like, hidden, inputs) * (2 / inputs) ** 0.5),
            group.parameter("in_bias", normal(like, hidden) * 0),
            group.parameter(
                "out_weight", normal(like, outputs, hidden) * spread.to(like) * hidden**-0.5
            ),
            group.parameter("out_bias", normal(like, outputs) * 0),
        )
        bound = []
        for site in group.sites:
            own = site.parameter("code", normal(like, code))
            count = -(-site.tensor.numel() // outputs)
            chunks = None if chunk is None else site.parameter("chunks", normal(like, count, code))
            shape = tuple(site.tensor.shape)
            bound.append(site.reads(Generate(own, layers, shape, chunks)))
        return bound

    return apply
