"""A space: choices, what they may not do together, and all that is asked of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Literal, Never, Self, TypeAlias, TypeVar, cast

import numpy as np

from manynet.errors import InputError, did_you_mean
from manynet.space._arch import (
    Arch,
    ByJson,
    Layout,
    Value,
    is_a,
    join,
    layout_of,
    plain_values,
)
from manynet.space._choice import Choice
from manynet.space._compile import lattice_of
from manynet.space._constraint import Constraint
from manynet.space._describe import describe
from manynet.space._lattice import Lattice
from manynet.space._variation import crossover, mutate, neighbors

__all__ = ["Space"]

Part = TypeVar("Part")
Vector: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
FORMAT = "manynet.space/1"


@dataclass(frozen=True, eq=False)
class Space(ByJson):
    """The named choices of a family, and what they may not do together.

    A member is counted, drawn and listed once: choices that do not matter (see `Choice`) are folded
    to their first value. Counting and drawing are exact for spaces of any size, constraints
    included, as long as a group of linked choices does not need 200,000 joint states. Beyond
    that, `count` and drawing by arch say so and refuse; drawing by choice, mutation and crossover
    go on by trial.

    Args:
        choices: the choices; their order is that of every arch and vector.
        constraints: what must hold between them, on folded values.

    Raises:
        InputError: two choices of one name, a constraint or a condition on an unknown choice or
            value, conditions that go in a circle, constraints that no arch satisfies, or that
            forbid the last values and are too entangled to find the nearest valid arch.

    Example:
        >>> import numpy as np
        >>> space = Space(
        ...     (
        ...         Choice("depth", (1, 2)),
        ...         Choice("width", (16, 32, 64)),
        ...         Choice("kernel", (3, 5), active_when={"depth": (2,)}),
        ...     )
        ... )
        >>> space.count  # three widths of one layer, six of two
        9
        >>> space.largest
        Arch({'depth': 2, 'width': 64, 'kernel': 5})
        >>> space.sample(np.random.default_rng(0)) in space
        True
        >>> space.encode(space.arch({"width": 32}))
        array([1. , 0.5, 1. ])
        >>> Space.from_json(space.to_json()) == space
        True
    """

    choices: tuple[Choice, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts fit together and that there is an arch at all."""
        object.__setattr__(self, "choices", _all(self.choices, Choice, "choices"))
        object.__setattr__(self, "constraints", _all(self.constraints, Constraint, "constraints"))
        names = [choice.name for choice in self.choices]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"two choices are called {twice!r}; give each its own name")
        for constraint in self.constraints:
            for name in constraint.names:
                self._known(name, f"the constraint '{constraint}' speaks of")
            constraint.check(self._domains)
        for choice in self.choices:
            self._check_activity(choice)
        if self._lattice.nearest(self._last) is None:
            raise InputError(
                f"no arch satisfies all {len(self.constraints)} constraints: "
                f"{'; '.join(map(str, self.constraints[:5]))}; loosen or drop one of them"
            )

    def _known(self, name: str, what: str) -> None:
        if name not in self._domains:
            raise InputError(
                f"{what} {name!r}, which is no choice of this space"
                f"{did_you_mean(name, self._domains)}"
            )

    def _check_activity(self, choice: Choice) -> None:
        for name, values in (choice.active_when or {}).items():
            self._known(name, f"choice {choice.name!r} matters only for certain values of")
            for value in values:
                try:
                    self._by_name[name].place(value)
                except InputError as error:
                    raise InputError(f"active_when of choice {choice.name!r}: {error}") from error

    # --- what is derived once

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The choices' names, in order."""
        return tuple(choice.name for choice in self.choices)

    @functools.cached_property
    def _domains(self) -> dict[str, tuple[Value, ...]]:
        return {choice.name: choice.values for choice in self.choices}

    @functools.cached_property
    def _columns(self) -> tuple[tuple[Value, ...], ...]:
        return tuple(choice.values for choice in self.choices)

    @functools.cached_property
    def _by_name(self) -> dict[str, Choice]:
        return {choice.name: choice for choice in self.choices}

    @functools.cached_property
    def _layout(self) -> Layout:
        return layout_of(self.names)

    @functools.cached_property
    def _last(self) -> list[int]:
        return [len(values) - 1 for values in self._columns]

    @functools.cached_property
    def _scale(self) -> Vector:
        return np.maximum(np.array(self._last, dtype=np.float64), 1.0)

    @functools.cached_property
    def _lattice(self) -> Lattice:
        return lattice_of(self.choices, self.constraints)

    def _arch(self, positions: Iterable[int]) -> Arch:
        return Arch._of(self._layout, tuple(map(getitem, self._columns, positions)))

    # --- looking at it

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.choices)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Choice:
        if name not in self._domains:
            raise InputError(
                f"the space has no choice {name!r}{did_you_mean(str(name), self._domains)}"
            )
        return self._by_name[name]

    def __contains__(self, arch: object) -> bool:
        if not isinstance(arch, Mapping):
            return False
        try:
            return self._lattice.valid(self._lattice.fold(self._positions(arch)))
        except InputError:
            return False

    @functools.cached_property
    def count(self) -> int:
        """The number of members, exactly.

        Raises:
            InputError: the constraints entangle too many choices.

        Example:
            >>> Space(tuple(Choice(f"c{i}", (1, 2, 3, 4)) for i in range(30))).count
            1152921504606846976
        """
        return self._lattice.count

    @functools.cached_property
    def largest(self) -> Arch:
        """The arch of the last values.

        If the constraints forbid it: the valid arch with the fewest steps from there; of several,
        the one whose first choices are largest.

        Example:
            >>> from manynet.space import AtMost, LessEqual
            >>> choices = Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3))
            >>> Space(choices, (LessEqual("a", "b"), AtMost(("a", "b"), 4))).largest
            Arch({'a': 2, 'b': 2})
        """
        return self._arch(cast("list[int]", self._lattice.nearest(self._last)))

    @functools.cached_property
    def smallest(self) -> Arch:
        """The arch of the first values; if the constraints forbid it, the nearest as above."""
        return self._arch(cast("list[int]", self._lattice.nearest([0] * len(self))))

    def describe(self, rows: int | None = None) -> str:
        """Return a table of the choices and a list of the constraints.

        Args:
            rows: show at most so many choices and so many constraints; all of them when left out.

        Example:
            >>> print(Space((Choice("depth", (1, 2)), Choice("width", (16, 32)))).describe())
            space of 2 choices, 4 archs
            choice  values
            depth   1, 2
            width   16, 32
        """
        return describe(self, rows)

    def __str__(self) -> str:
        return self.describe(rows=20)

    # --- making archs

    def arch(self, values: Mapping[str, Value]) -> Arch:
        """Return the arch with these values, folded; the choices left out are as large as allowed.

        Raises:
            InputError: an unknown name or value, or values that the constraints forbid.

        Example:
            >>> space = Space((Choice("depth", (1, 2)), Choice("width", (16, 32))))
            >>> space.arch({"width": 16})
            Arch({'depth': 2, 'width': 16})
        """
        index = self._layout.index
        kept = {index[name]: place for name, place in self._given(values).items()}
        found = self._lattice.nearest(self._last, kept)
        if found is None:
            self._refuse(values)
        return self._arch(found)

    def _given(self, values: Mapping[str, Value]) -> dict[str, int]:
        """Return the position of each value. Raises `InputError` for unknown names and values."""
        if not is_a(values, Mapping):
            raise InputError(
                f"an arch is a mapping of choices to values; found {type(values).__name__}"
            )
        for name in values:
            self._known(name, "the arch sets")
        return {name: self._by_name[name].place(value) for name, value in values.items()}

    def _positions(self, arch: Mapping[str, Value]) -> list[int]:
        """Return the positions of a whole arch."""
        if isinstance(arch, Arch) and arch._layout is self._layout:
            return [c.place(value) for c, value in zip(self.choices, arch._values, strict=True)]
        given = self._given(arch)
        missing = [name for name in self.names if name not in given]
        if missing:
            raise InputError(
                f"the arch lacks {len(missing)} choices of the space: {join(missing, 5)}; "
                "complete it with space.arch(...)"
            )
        return [given[name] for name in self.names]

    def _member(self, arch: Mapping[str, Value]) -> list[int]:
        """Return the folded positions of a whole arch that must satisfy the constraints."""
        positions = self._lattice.fold(self._positions(arch))
        if not self._lattice.valid(positions):
            self._refuse(self._arch(positions))
        return positions

    def _refuse(self, values: Mapping[str, Value]) -> Never:
        for constraint in self.constraints:
            if set(constraint.names) <= values.keys() and not constraint.holds(values):
                found = ", ".join(f"{name}={values[name]!r}" for name in constraint.names[:6])
                more = ", …" if len(constraint.names) > 6 else ""
                raise InputError(
                    f"the arch breaks the constraint '{constraint}': found {found}{more}; "
                    "change one of them"
                )
        raise InputError(
            f"no arch of the space has all of {dict(values)!r}: the constraints forbid it; "
            "leave some choices out, so that they can follow"
        )

    def canonical(self, arch: Mapping[str, Value]) -> Arch:
        """Return the arch with every choice that does not matter at its first value.

        Two archs are one member exactly when their canonical archs are equal.

        Example:
            >>> space = Space(
            ...     (Choice("depth", (1, 2)), Choice("kernel", (3, 5), active_when={"depth": (2,)}))
            ... )
            >>> space.canonical({"depth": 1, "kernel": 5})
            Arch({'depth': 1, 'kernel': 3})
        """
        folded = self._arch(self._lattice.fold(self._positions(arch)))
        return arch if isinstance(arch, Arch) and arch == folded else folded

    def active(self, arch: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the names of the choices that matter in this arch.

        Example:
            >>> space = Space(
            ...     (Choice("depth", (1, 2)), Choice("kernel", (3, 5), active_when={"depth": (2,)}))
            ... )
            >>> space.active({"depth": 1, "kernel": 5})
            ('depth',)
        """
        flags = self._lattice.active(self._positions(arch))
        return tuple(name for name, matters in zip(self.names, flags, strict=True) if matters)

    # --- drawing and listing

    def sample(self, rng: np.random.Generator, by: Literal["arch", "choice"] = "arch") -> Arch:
        """Draw an arch.

        Args:
            rng: the source of chance; equal states draw equal archs.
            by: `"arch"` draws every member with the same probability. `"choice"` draws each choice
                uniformly among the values that the choices before it leave possible, parents before
                the choices that depend on them; so a depth is uniform although deep members are
                more. The two agree where nothing is conditional or constrained.

        Raises:
            InputError: another `by`, no generator, or `"arch"` of constraints too entangled.

        Example:
            >>> space = Space((Choice("depth", (1, 2)), Choice("width", (16, 32))))
            >>> space.sample(np.random.default_rng(0))
            Arch({'depth': 2, 'width': 32})
        """
        _check_rng(rng, "sample")
        if by == "choice":
            return self._arch(self._lattice.draw_by_choice(rng))
        if by == "arch":
            return self._arch(self._lattice.draw(rng))
        raise InputError(f"sample cannot draw by {by!r}{did_you_mean(str(by), ('arch', 'choice'))}")

    def enumerate(self) -> Iterator[Arch]:
        """Yield every member once, in a fixed order, lazily.

        Example:
            >>> [dict(arch) for arch in Space((Choice("depth", (1, 2)),)).enumerate()]
            [{'depth': 1}, {'depth': 2}]
        """
        return map(self._arch, self._lattice.walk())

    def neighbors(self, arch: Mapping[str, Value], *, steps: int | None = None) -> Iterator[Arch]:
        """Yield the members in which one choice has another value.

        Where a constraint forbids that, the other choices follow as little as needed; a move that
        nothing can follow is left out.

        Args:
            arch: the member whose neighbors are wanted.
            steps: go at most so many values up or down; any value when left out.

        Example:
            >>> space = Space((Choice("depth", (1, 2)), Choice("width", (16, 32, 64))))
            >>> [dict(near) for near in space.neighbors(space.largest, steps=1)]
            [{'depth': 1, 'width': 64}, {'depth': 2, 'width': 32}]
        """
        return map(self._arch, neighbors(self._lattice, self._member(arch), steps))

    def mutate(
        self, arch: Mapping[str, Value], rng: np.random.Generator, probability: float = 0.1
    ) -> Arch:
        """Return another member: each choice that matters changes with this probability.

        At least one changes. Draws that break a constraint are repeated a few times; then one
        change is kept and the others follow as little as needed. Choices that begin to matter are
        drawn. Only where there is nowhere to go does the arch come back unchanged.

        Args:
            arch: the member to start from.
            rng: the source of chance.
            probability: of a change, for each choice.

        Raises:
            InputError: an arch that is no member, or a probability outside 0 to 1.

        Example:
            >>> space = Space((Choice("depth", (1, 2)), Choice("width", (16, 32, 64))))
            >>> space.mutate(space.largest, np.random.default_rng(0)) != space.largest
            True
        """
        _check_rng(rng, "mutate")
        if not 0 <= probability <= 1:
            raise InputError(f"mutate: the probability is {probability!r}; give one from 0 to 1")
        return self._arch(mutate(self._lattice, self._member(arch), rng, probability))

    def crossover(
        self, first: Mapping[str, Value], second: Mapping[str, Value], rng: np.random.Generator
    ) -> Arch:
        """Return a member that takes each choice from one of two members.

        A parent in which a choice does not matter has no say in it. Draws that break a constraint
        are repeated a few times; then choices that hang together come from one parent.

        Args:
            first: one parent.
            second: the other.
            rng: the source of chance.

        Raises:
            InputError: a parent that is no member.

        Example:
            >>> space = Space((Choice("depth", (1, 2)), Choice("width", (16, 32, 64))))
            >>> child = space.crossover(space.largest, space.smallest, np.random.default_rng(0))
            >>> child["width"] in (16, 64)
            True
        """
        _check_rng(rng, "crossover")
        parents = self._member(first), self._member(second)
        return self._arch(crossover(self._lattice, *parents, rng))

    # --- vectors and files

    def encode(self, arch: Mapping[str, Value]) -> Vector:
        """Return the member as numbers from 0 (first value) to 1 (last value), one a choice.

        Choices that do not matter are 0, so that one member has one vector.

        Shapes:
            returns: `(len(space),)`, float64.
        """
        positions = self._lattice.fold(self._positions(arch))
        return cast("Vector", np.array(positions, dtype=np.float64) / self._scale)

    def decode(self, vector: Sequence[float] | Vector) -> Arch:
        """Return the member nearest to a vector.

        Each number picks the nearest value; where the constraints forbid the result, the valid arch
        with the fewest steps from there.

        Args:
            vector: one finite number a choice; below 0 counts as 0 and above 1 as 1.

        Raises:
            InputError: a wrong length, or a number that is not finite.

        Shapes:
            vector: `(len(space),)`.

        Example:
            >>> space = Space((Choice("depth", (1, 2)), Choice("width", (16, 32, 64))))
            >>> space.decode([0.9, 0.4])
            Arch({'depth': 2, 'width': 32})
        """
        array = np.asarray(vector, dtype=np.float64)
        if array.shape != (len(self),):
            raise InputError(
                f"decode needs {len(self)} numbers, one a choice; found shape {array.shape}"
            )
        if not np.isfinite(array).all():
            name = self.names[int(np.argmin(np.isfinite(array)))]
            raise InputError(
                f"decode: the number for choice {name!r} is not finite; check its maker"
            )
        positions = np.floor(np.clip(array, 0, 1) * self._last + 0.5).astype(np.int64).tolist()
        return self._arch(cast("list[int]", self._lattice.nearest(positions)))

    def to_json(self) -> dict[str, object]:
        """Return a dictionary that `json.dumps` takes: data alone, never code."""
        return {
            "format": FORMAT,
            "choices": [choice.to_json() for choice in self.choices],
            "constraints": [constraint.to_json() for constraint in self.constraints],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Return the space that `to_json` gave.

        Raises:
            InputError: it is something else, or of a newer format.
        """
        found = data.get("format") if is_a(data, Mapping) else type(data).__name__
        if found != FORMAT:
            raise InputError(
                f"this is no space: expected the format {FORMAT!r}, found {found!r}; "
                "read it with the version of manynet that wrote it"
            )
        parts = [data.get("choices"), data.get("constraints", [])]
        for part, name in zip(parts, ("choices", "constraints"), strict=True):
            if not isinstance(part, list | tuple):
                raise InputError(f"the space in JSON has no list of {name}; found {part!r}")
        choices, constraints = cast("list[list[Mapping[str, object]]]", parts)
        return cls(
            tuple(map(Choice.from_json, choices)), tuple(map(Constraint.from_json, constraints))
        )

    # --- other spaces

    def restrict(self, values: Mapping[str, Iterable[Value]]) -> Self:
        """Return the part of this space in which some choices have only some of their values.

        Its archs belong to this space too. A choice that does not matter takes the first value that
        is left, so use `canonical` of this space to compare archs of both.

        Args:
            values: the values that stay, for each choice to be restricted, in any order.

        Raises:
            InputError: an unknown name or value, no value at all, or nothing left to choose from.

        Example:
            >>> space = Space((Choice("depth", (1, 2)), Choice("width", (16, 32, 64))))
            >>> space.restrict({"width": (32, 64)}).count
            4
        """
        kept = dict(self._domains)
        for name, wanted in values.items():
            self._known(name, "restrict speaks of")
            choice = self._by_name[name]
            places = {choice.place(v) for v in plain_values(wanted, f"restrict {name!r}")}
            kept[name] = tuple(choice.values[place] for place in sorted(places))
        choices = tuple(choice.restricted(kept) for choice in self.choices)
        return type(self)(choices, tuple(c.restricted(kept) for c in self.constraints))

    def with_choices(self, *choices: Choice, constraints: Iterable[Constraint] = ()) -> Self:
        """Return this space with more choices, and more constraints if given.

        Example:
            >>> space = Space((Choice("depth", (1, 2)),))
            >>> space.with_choices(Choice("width", (16, 32))).names
            ('depth', 'width')
        """
        return type(self)((*self.choices, *choices), (*self.constraints, *constraints))


def _all(given: object, kind: type[Part], what: str) -> tuple[Part, ...]:
    """Return the parts as a tuple. Raises `InputError` if one of them is of another kind."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"the {what} of a space are a tuple of {kind.__name__}; found {given!r}")
    parts = tuple(given)
    for part in parts:
        if not isinstance(part, kind):
            raise InputError(
                f"the {what} of a space are of type {kind.__name__}; "
                f"found {part!r}, a {type(part).__name__}"
            )
    return parts


def _check_rng(rng: object, what: str) -> None:
    if not isinstance(rng, np.random.Generator):
        raise InputError(
            f"{what} needs a numpy.random.Generator; found {type(rng).__name__}; "
            "try numpy.random.default_rng(0)"
        )
