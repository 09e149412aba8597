"""What the layers of any member cost, looked up instead of counted.

A layer's cost depends on a few choices only: the widths before and after it, its kernel, the depth
of its stage. So a family of 10^18 members has a few hundred different layers. The table finds out
which choices matter to which layer by lowering one choice at a time, then remembers each layer for
each combination of those choices that it has met. What it has not met is counted on the member,
and every such count checks what the table knew; so does an audit of the 16th, 32nd, 64th arch, and
so on. Where they disagree, the table gives itself up and every member is counted instead.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from torch import nn

from manynet._inputs import Inputs, as_inputs, with_batch
from manynet.cost._cost import FamilyLike
from manynet.cost._count import KINDS, LayerCost, by_layer
from manynet.cost._products import completed
from manynet.errors import InputError
from manynet.space import Arch, Choice, Space, Value

__all__ = ["COLUMNS", "LayerTable", "Lookup", "figures_of", "lookup_of"]

COLUMNS = (
    "parameters",
    "bytes",
    "macs",
    "bit_operations",
    *(f"{kind}_{what}" for kind in KINDS for what in ("macs", "weights", "moved", "layers")),
)
Figures = tuple[float, ...]
Picker = Callable[[tuple[Any, ...]], object]
Part = tuple[tuple[int, ...], Picker, dict[object, float]]
# Remembered for as long as the family lives; they change no result, only how soon it is there.
_TABLES: weakref.WeakKeyDictionary[FamilyLike, LayerTable] = weakref.WeakKeyDictionary()
_LOOKUPS: weakref.WeakKeyDictionary[FamilyLike, dict[str, Lookup]] = weakref.WeakKeyDictionary()
_REMEMBERED = 100_000  # archs whose sum is kept
_FIRST_AUDIT = 16


def lookup_of(family: FamilyLike, column: str) -> Lookup:
    """Return the quick way to one figure of a family's members at its example inputs."""
    lookups = _LOOKUPS.setdefault(family, {})
    if column not in lookups:
        if family not in _TABLES:
            inputs = with_batch(as_inputs(family.example_inputs), 1)
            _TABLES[family] = LayerTable(family, inputs)
        weights = [float(name == column) for name in COLUMNS]
        lookups[column] = Lookup(_TABLES[family], weights)
    return lookups[column]


@dataclass
class Group:
    """The layers whose cost depends on the same choices."""

    positions: tuple[int, ...]
    paths: frozenset[str]
    known: dict[object, Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pick = _picker(self.positions)


class LayerTable:
    """The costs of a family's layers, by the choices on which each depends.

    Args:
        family: its members are counted, and not kept.
        inputs: inputs that fit every member; they are counted as they are.
        checks: random members that are counted at once to see that the table is right.
        seed: draws those members.
    """

    def __init__(
        self, family: FamilyLike, inputs: Inputs, *, checks: int = 6, seed: int = 0
    ) -> None:
        self._family = weakref.ref(family)
        self._inputs = inputs
        self.names = tuple(choice.name for choice in family.space.choices)
        self.exact = True
        self.groups = self._find_groups(family)
        rng = np.random.default_rng(seed)
        for arch in [family.space.smallest, *(family.space.sample(rng) for _ in range(checks))]:
            self.count(arch)

    def values(self, arch: Arch) -> tuple[Any, ...]:
        """Return the values of an arch in the order of the space."""
        return tuple([arch[name] for name in self.names])

    def figures(self, arch: Arch) -> Figures:
        """Return the figures of an arch, in the order of `COLUMNS`."""
        values = self.values(arch)
        keys = [group.pick(values) for group in self.groups]
        if not self.exact or any(
            key not in group.known for group, key in zip(self.groups, keys, strict=True)
        ):
            return self.count(arch)
        return _total(g.known[key] for g, key in zip(self.groups, keys, strict=True))

    def count(self, arch: Arch) -> Figures:
        """Count a member, fill in what is new, and check what was known."""
        layers = self._layers(arch)
        self.exact = self.exact and self._learn(arch, layers)
        return _total(layers.values())

    def _layers(self, arch: Arch) -> dict[str, Figures]:
        family = self._family()
        if family is None:
            raise InputError(
                "this arch has layers that were never counted, and the family is gone; keep it "
                "for as long as you ask for costs of its members"
            )
        layers = by_layer(family.at(arch), self._inputs, per_sample=False)
        origins = getattr(family, "origins", None)  # of families whose lists close gaps
        paths = {} if origins is None else origins(arch)
        return {paths.get(layer.path, layer.path): _figures(layer) for layer in layers}

    def _learn(self, arch: Arch, layers: dict[str, Figures]) -> bool:
        """Remember each group's sum; return whether it agrees with what was known."""
        values = self.values(arch)
        agrees = layers.keys() <= frozenset().union(*(group.paths for group in self.groups))
        for group in self.groups:
            here = _total(layers[path] for path in group.paths if path in layers)
            agrees &= group.known.setdefault(group.pick(values), here) == here
        return agrees

    def _find_groups(self, family: FamilyLike) -> list[Group]:
        """Lower one choice after the other, and see which layers change."""
        base = self._layers(family.space.largest)
        depends: dict[str, list[int]] = {path: [] for path in base}
        for position, choice in enumerate(family.space.choices):
            lowered = _lowered(family.space, choice)
            layers = base if lowered is None else self._layers(lowered)
            for path, figures in base.items():
                if layers.get(path) != figures:
                    depends[path].append(position)
        together: dict[tuple[int, ...], set[str]] = {}
        for path, positions in depends.items():
            together.setdefault(tuple(positions), set()).add(path)
        return [Group(key, frozenset(paths)) for key, paths in together.items()]


class Lookup:
    """A weighted sum of a table's figures for any arch, in a few microseconds.

    Args:
        table: where the layers' figures stand.
        weights: one factor for each of `COLUMNS`.
    """

    def __init__(self, table: LayerTable, weights: Sequence[float]) -> None:
        self._table: LayerTable | None = table
        self._weights = tuple(weights)
        self._names = table.names
        self._parts: list[Part] = [
            (group.positions, _picker(group.positions), {}) for group in table.groups
        ]
        self._whole: dict[Arch, float] = {}
        self._served = 0
        self._update()

    def __call__(self, arch: Arch) -> float:
        """Return the weighted sum of one arch.

        Raises:
            InputError: the lookup was read from a file, and does not know one of the layers.
        """
        found = self._whole.get(arch)
        if found is None:
            if len(self._whole) >= _REMEMBERED:
                self._whole.clear()
            self._audit(arch)
            found = self._whole[arch] = self._sum(arch)
        return found

    def _audit(self, arch: Arch) -> None:
        """Count a member now and then, more and more seldom, although it could be looked up."""
        self._served += 1
        due = self._served >= _FIRST_AUDIT and self._served & (self._served - 1) == 0
        if due and self._table is not None and self._table.exact:
            self._table.count(arch)
            self._update()

    def completed(
        self, candidates: Mapping[str, Iterable[Value]]
    ) -> list[tuple[tuple[str, ...], Mapping[Any, float], bool]]:
        """Return the choices of each group of layers, its figures, and whether these are all.

        Figures of combinations that were never met follow from the others, where these tell them.

        Args:
            candidates: the values of each choice.
        """
        self._update()
        found: list[tuple[tuple[str, ...], Mapping[Any, float], bool]] = []
        for positions, _, known in self._parts:
            names = tuple(self._names[position] for position in positions)
            values = [tuple(candidates[name]) for name in names]
            several = known if len(positions) != 1 else {(key,): v for key, v in known.items()}
            every = completed(values, cast("Any", several)) if self._reliable else None
            if every is None:
                found.append((names, known, False))
            else:
                found.append((names, {_key(positions, key): v for key, v in every.items()}, True))
        return found

    @property
    def _reliable(self) -> bool:
        return self._table is None or self._table.exact

    def to_json(self) -> dict[str, Any]:
        """Return what is known as JSON values."""
        self._update()
        groups = [
            {"choices": [self._names[p] for p in positions], "known": _listed(positions, known)}
            for positions, _, known in self._parts
        ]
        return {"names": list(self._names), "groups": groups}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lookup:
        """Return a lookup that knows what was known, and nothing else."""
        lookup = cls.__new__(cls)
        lookup._table, lookup._weights, lookup._whole, lookup._served = None, (), {}, 0
        lookup._names = tuple(data["names"])
        lookup._parts = []
        for group in data["groups"]:
            positions = tuple(lookup._names.index(name) for name in group["choices"])
            known = {_key(positions, values): float(figure) for values, figure in group["known"]}
            lookup._parts.append((positions, _picker(positions), known))
        return lookup

    def _sum(self, arch: Arch) -> float:
        if self._reliable:
            values = tuple([arch[name] for name in self._names])
            try:
                return sum([known[pick(values)] for _, pick, known in self._parts])
            except KeyError as error:
                if self._table is None:
                    raise InputError(
                        f"this lookup never met a layer with {error.args[0]!r}; give it the family"
                    ) from error
        assert self._table is not None
        figures = self._table.figures(arch)
        self._update()
        return self._weighted(figures)

    def _update(self) -> None:
        """Weigh what the table has learned since; forget all if it was found wrong."""
        if self._table is None:
            return
        if not self._table.exact:
            self._whole.clear()
            return
        for group, (_, _, known) in zip(self._table.groups, self._parts, strict=True):
            for key in group.known.keys() - known.keys():
                known[key] = self._weighted(group.known[key])

    def _weighted(self, figures: Figures) -> float:
        return sum([w * f for w, f in zip(self._weights, figures, strict=True) if w])


def _listed(positions: tuple[int, ...], known: Mapping[object, float]) -> list[Any]:
    """Return a group's entries as lists: the values of its choices, and the figure."""
    single = len(positions) == 1
    return [[[key] if single else list(cast("Any", key)), f] for key, f in known.items()]


def _key(positions: tuple[int, ...], values: Sequence[Any]) -> object:
    """Return the key that the picker of these positions makes of these values."""
    return values[0] if len(positions) == 1 else tuple(values)


def _lowered(space: Space, choice: Choice) -> Arch | None:
    """Return the largest arch with one choice as low as the constraints let it go."""
    for value in choice.values[:-1]:
        arch = Arch({**space.largest, choice.name: value})
        if arch in space:
            return arch
    return None


def _picker(positions: tuple[int, ...]) -> Picker:
    """Return a function that takes the values at these positions, as one key."""
    return operator.itemgetter(*positions) if positions else lambda values: ()


def _total(parts: Iterable[Figures]) -> Figures:
    return tuple(map(sum, zip((0.0,) * len(COLUMNS), *parts, strict=True)))


def figures_of(member: nn.Module, inputs: Inputs) -> Figures:
    """Return the figures of any network, in the order of `COLUMNS`."""
    return _total(_figures(layer) for layer in by_layer(member, inputs, per_sample=False))


def _figures(layer: LayerCost) -> Figures:
    """Return one layer's row of the table: costs, then what its kind of work takes."""
    row = dict.fromkeys(COLUMNS, 0.0)
    row |= {"parameters": layer.parameters, "bytes": layer.bytes, "macs": layer.macs}
    row["bit_operations"] = layer.bit_operations
    row[f"{layer.kind}_macs"] = layer.macs
    row[f"{layer.kind}_weights"] = layer.parameters  # what runs is not packed
    row[f"{layer.kind}_moved"] = layer.read + layer.written
    row[f"{layer.kind}_layers"] = 1.0
    return tuple(row.values())
