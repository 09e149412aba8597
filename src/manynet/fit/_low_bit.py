"""`fit_low_bit`: a trained network with integers of several widths for each linear weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manynet.bindings.codes import Codes, rounded_to_nearest
from manynet.bindings.forms import by_value
from manynet.bindings.low_rank import LowRank
from manynet.bindings.operation import Operation, evaluate, resolved
from manynet.bindings.pack import Integers
from manynet.bindings.protocol import Binding
from manynet.bindings.route import Route
from manynet.bindings.site import Group, Site
from manynet.bindings.tie import Tie
from manynet.errors import InputError
from manynet.family import Family
from manynet.family.apply import bind
from manynet.fit._gptq import gptq
from manynet.fit._sites import blocks_of, projections
from manynet.fit._watch import input_grams
from manynet.space import Arch, Choice, Value

__all__ = [
    "Adapters",
    "average_bits",
    "bit_sizes",
    "fit_low_bit",
    "reset_adapters",
    "weight_rises",
]

Adapters = Literal["own", "shared", "plain"]
Per = str | int
Form = tuple[int, Per, bool]


def fit_low_bit(
    model: nn.Module,
    data: Any = None,
    *,
    bits: int | Sequence[int] = (2, 3, 4),
    per: Per | Sequence[Per] = 32,
    symmetric: bool | Sequence[bool] = False,
    rank: int = 8,
    alpha: float = 16.0,
    adapters: Adapters = "own",
    by: Literal["layer", "block"] = "layer",
    where: str | Sequence[str] = "*",
    seed: int = 0,
    example_inputs: tuple[Any, ...] = (),
) -> Family:
    """Return a family whose linear weights are frozen integers, of a width that each layer chooses.

    For each form (bits, granularity, symmetry) a layer keeps integers of its own and a low-rank
    adapter of its own, so that no form pulls at what another has learned. Adapters begin at
    nothing; they alone are trained, and a member has them in its zero points. The choices are
    called `LAYER.weight.bits`, `.per` and `.symmetric`.

    Args:
        model: the network; it stays as it is.
        data: calibration data, for GPTQ; None rounds to the nearest level.
        bits: widths, from 2 to 8.
        per: what has a scale of its own: so many entries of a row, or a `"channel"`.
        symmetric: whether zero lies in the middle of the levels.
        rank: of the adapters; 0 for none.
        alpha: adapters are multiplied by `alpha / rank`, but for plain ones.
        adapters: `"own"` of each form; `"shared"` by all forms of a layer, which then need one
            granularity; or `"plain"`, of each form and for single inputs instead of groups, which
            stays a matrix beside the integers and is not packed.
        by: whether each layer chooses, or each block, by a choice called `BLOCK.bits`.
        where: patterns of the weights; by default all linear weights of the repeated blocks.
        seed: of the adapters.
        example_inputs: to count costs with.

    Raises:
        InputError: an argument does not fit, or a group's size does not divide a layer's inputs.

    Reference: Yi et al. 2024, arXiv 2405.20202. Where we differ: there is no dropout before the
    adapters, since they are part of the weights; scales and zero points have half precision.

    Example:
        >>> from manynet.models import small_gpt
        >>> model = small_gpt(20, width=32, depth=2)
        >>> family = fit_low_bit(model, bits=(2, 4), rank=2)
        >>> family.space.names[0], average_bits(family, family.space.smallest)
        ('blocks.0.attention.query.weight.bits', 2.0)
    """
    widths, pers, forms = _tuple(bits), _tuple(per), _tuple(symmetric)
    if not (widths and pers and forms) or not all(2 <= b <= 8 for b in widths):
        raise InputError(
            f"fit_low_bit(bits={bits}, per={per}, symmetric={symmetric}): give at least one of "
            "each, and bits from 2 to 8"
        )
    if adapters not in ("own", "shared", "plain") or by not in ("layer", "block") or rank < 0:
        raise InputError(
            f"fit_low_bit(adapters={adapters!r}, by={by!r}, rank={rank}): adapters are 'own', "
            "'shared' or 'plain', choices by 'layer' or 'block', and a rank is not negative"
        )
    if adapters == "shared" and len(pers) > 1:
        raise InputError("adapters that all forms share need one granularity; give one `per`")
    names = [name for found in projections(model, where).values() for name in found]
    grams = {} if data is None else input_grams(model, data, names)
    path = blocks_of(model)
    recipe = _Recipe(
        widths, pers, forms, rank, alpha / max(rank, 1), adapters, grams,
        path if by == "block" else None,
    )  # fmt: skip
    family = bind(model, names, recipe, example_inputs=example_inputs)
    for name, parameter in family.named_parameters():
        parameter.requires_grad_(name in family.extra)
    reset_adapters(family, seed)
    family.clear()
    return family


@torch.no_grad()
def reset_adapters(family: Family, seed: int = 0) -> None:
    """Let the adapters of `fit_low_bit` begin anew, in place: half of them zeros, half at random.

    Args:
        family: whose adapters they are.
        seed: of the random ones, which are uniform as Xavier's.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in family.named_parameters():
        if name.endswith(".adapter.left"):
            parameter.zero_()
        elif name.endswith(".adapter.right"):
            drawn = torch.rand(parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(drawn * (6 / sum(parameter.shape)) ** 0.5)


def _tuple(setting: Any) -> tuple[Any, ...]:
    several = isinstance(setting, Sequence) and not isinstance(setting, str)
    return tuple(sorted(setting, key=str)) if several else (setting,)


@dataclass
class _Recipe:
    bits: tuple[int, ...]
    pers: tuple[Per, ...]
    symmetric: tuple[bool, ...]
    rank: int
    factor: float
    adapters: Adapters
    grams: Mapping[str, Tensor]
    blocks: str | None

    def __call__(self, group: Group) -> list[Binding]:
        return [self.bound(site) for site in group.sites]

    def bound(self, site: Site) -> Binding:
        """Return how a weight is read: by bits, then granularity, then symmetry."""
        shared = None
        if self.adapters == "shared" and self.rank:
            shared = self.pair(site, "adapter", self.pers[0])
        name = self.owner(site.name)

        def choose(role: str, values: tuple[Any, ...], make: Callable[[Any], Binding]) -> Binding:
            if len(values) > 1:
                site.group.choice(Choice(f"{name}.{role}", values))
            return by_value(f"{name}.{role}", {value: make(value) for value in values})

        return choose(
            "bits",
            self.bits,
            lambda bits: choose(
                "per",
                self.pers,
                lambda per: choose(
                    "symmetric",
                    self.symmetric,
                    lambda symmetric: self.form(site, (bits, per, symmetric), shared),
                ),
            ),
        )

    def owner(self, name: str) -> str:
        """Return what the choices of a weight are named after."""
        if self.blocks is None:
            return name
        start = f"{self.blocks}." if self.blocks else ""
        return start + name.removeprefix(start).partition(".")[0]

    def form(self, site: Site, form: Form, shared: tuple[Binding, Binding] | None) -> Binding:
        """Return how a weight is read in one form."""
        bits, per, symmetric = form
        own = self.rounded(site, form)
        words = {"per": str(per), "form": "symmetric" if symmetric else "asymmetric"}
        several = {"per": len(self.pers) > 1, "form": len(self.symmetric) > 1}
        role = ".".join([f"{bits}bits", *(words[key] for key in words if several[key])])
        codes = site.buffer(f"{role}.codes", own.integers.view(own.shape))
        scale = site.buffer(f"{role}.scale", own.scale.flatten())
        zero = None
        if own.zero is not None:
            zero = site.buffer(f"{role}.zero", own.zero.flatten().to(torch.uint8))
        pair = shared or (self.pair(site, f"{role}.adapter", per) if self.rank else None)
        size = own.integers.shape[1]
        dtype = str(site.tensor.dtype).removeprefix("torch.")
        frozen = functools.partial(Codes, codes, scale, bits, size, zero, dtype=dtype)
        if pair is None:
            return frozen()
        if self.adapters == "plain":
            return Tie(frozen(), shift=LowRank(*pair))
        return frozen(left=pair[0], right=pair[1], factor=self.factor)

    def pair(self, site: Site, role: str, per: Per) -> tuple[Binding, Binding]:
        """Return the two matrices of an adapter: the left one zeros, the right one at random."""
        outputs, inputs = site.tensor.shape
        groups = inputs if self.adapters == "plain" else inputs // _size(site, per)
        left = torch.zeros(outputs, self.rank).to(site.tensor)
        right = torch.zeros(self.rank, groups).to(site.tensor)
        return site.parameter(f"{role}.left", left), site.parameter(f"{role}.right", right)

    def rounded(self, site: Site, form: Form) -> Integers:
        bits, per, symmetric = form
        _size(site, per)
        if site.name in self.grams:
            gram = self.grams[site.name]
            return gptq(site.tensor, gram, bits, per=per, symmetric=symmetric)
        return rounded_to_nearest(site.tensor, bits, per=per, symmetric=symmetric)


def _size(site: Site, per: Per) -> int:
    """Return how many entries a group has."""
    inputs = site.tensor.shape[1]
    size = inputs if per == "channel" else per
    if not isinstance(size, int) or size < 1 or inputs % size:
        raise InputError(
            f"{site.name}: per={per!r} does not divide its {inputs} inputs; give a divisor of the "
            "inputs of all layers, or 'channel'"
        )
    return size


def average_bits(family: Family, arch: Mapping[str, Any], *, stored: bool = False) -> float:
    """Return the mean width of a member's quantized weights; every entry counts the same.

    Args:
        family: its bindings say which weights are quantized.
        arch: of the member.
        stored: count scales and zero points too, as a file has them.

    Raises:
        InputError: no weight of the member is quantized.
    """
    arch = arch if isinstance(arch, Arch) else family.space.arch(arch)
    shapes = dict(family.shared.named_parameters())
    total = entries = 0.0
    for name, binding in family.blueprint.bindings.items():
        found = resolved(binding, arch)
        while isinstance(found, Tie):  # an adapter beside the integers
            found = found.weight
        bits = found.entry_bits(arch) if isinstance(found, Operation) else None
        if bits is not None and isinstance(found, Operation) and name in shapes:
            size = shapes[name].numel()
            total += found.stored_bits(arch, shapes[name]) if stored else bits * size
            entries += size
    if not entries:
        raise InputError("no weight of this member is quantized, so it has no average width")
    return total / entries


def bit_sizes(family: Family) -> dict[str, int]:
    """Return how many weights follow each choice of bits of a family of `fit_low_bit`."""
    shapes = dict(family.shared.named_parameters())
    sizes: dict[str, int] = {}
    for name, binding in family.blueprint.bindings.items():
        if isinstance(binding, Route) and binding.choice.endswith(".bits"):
            sizes[binding.choice] = sizes.get(binding.choice, 0) + shapes[name].numel()
    return sizes


@torch.no_grad()
def weight_rises(family: Family, model: nn.Module) -> dict[str, dict[Value, float]]:
    """Return the squared error of the weights that each width of each choice leaves.

    It costs no evaluation, and says as `manynet.search.rises` does which layer to lower next.

    Args:
        family: of `fit_low_bit`, with choices of bits.
        model: what it was made of.
    """
    wanted = dict(model.named_parameters())
    found: dict[str, dict[Value, float]] = {}
    shared = {name: tensor.detach() for name, tensor in family.state_dict().items()}
    largest = family.space.largest
    for name, binding in family.blueprint.bindings.items():
        if not (isinstance(binding, Route) and binding.choice.endswith(".bits")):
            continue
        rises = found.setdefault(binding.choice, dict.fromkeys(binding.values, 0.0))
        for value in binding.values:
            arch = Arch({**largest, binding.choice: value})
            weight = evaluate(binding.at(arch, {}), shared)
            rises[value] += float((weight - wanted[name]).square().sum())
    return found
