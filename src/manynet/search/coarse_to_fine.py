"""BigNAS's selection: a coarse grid over all stages together, then one choice at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product

import numpy as np

from manynet.errors import InputError
from manynet.search.front import non_dominated
from manynet.search.strategies import Evaluation
from manynet.space import Arch, Space

__all__ = ["CoarseToFine"]


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


class CoarseToFine:
    """First archs whose choices of one role move together, then neighbors of the best.

    *Coarse*: the choices are grouped by role (widths, depths, kernels, resolution). Every role
    takes a few levels from its smallest to its largest values, the same in all stages, and the
    grid over the roles is evaluated. *Fine*: of what is on the front, every arch that differs in
    one choice by one step is evaluated, until the front's neighbors hold nothing new.

    Args:
        space: where the archs come from.
        seed: not needed, nothing is drawn.
        population: how many to ask for at once.
        levels: of each role in the grid, at least 2; fewer where a role has fewer values.
        role: from the name of a choice to its role; its last part by default, such as `width`.

    Raises:
        InputError: `levels` is less than 2.

    Reference: Yu et al., "BigNAS", 2020, arXiv 2003.11142, section 3.4. Theirs mutates at random;
    this takes every neighbor, so that nothing depends on chance.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space((Choice("a.width", (1, 2, 3)), Choice("b.width", (8, 16, 32))))
        >>> [tuple(arch.values()) for arch in CoarseToFine(space).ask()]
        [(3, 32), (1, 8), (2, 16)]
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        population: int = 50,
        levels: int = 4,
        role: Callable[[str], str] = _last_part,
    ) -> None:
        if levels < 2:
            raise InputError(f"CoarseToFine(levels={levels}): a grid needs at least 2")
        self._space = space
        self._population = population
        self._seen: set[Arch] = set()
        self._found: list[Evaluation] = []
        self._pending = self._new(_grid(space, levels, role))

    def ask(self) -> list[Arch]:
        """Return the next archs of the grid, then neighbors of the front; nothing at the end."""
        asked = list(islice(self._pending, self._population))
        if not asked:
            self._pending = self._new(self._neighbors())
            asked = list(islice(self._pending, self._population))
        return asked

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Remember what keeps the constraints."""
        self._found += [one for one in evaluations if one.feasible]

    def _new(self, archs: Iterator[Arch]) -> Iterator[Arch]:
        for arch in archs:
            canonical = self._space.canonical(arch)
            if canonical not in self._seen:
                self._seen.add(canonical)
                yield canonical

    def _neighbors(self) -> Iterator[Arch]:
        if not self._found:
            return
        front = non_dominated(np.array([one.objectives for one in self._found]))
        self._found = [self._found[number] for number in front]
        for one in list(self._found):
            yield from self._space.neighbors(one.arch, steps=1)


def _grid(space: Space, levels: int, role: Callable[[str], str]) -> Iterator[Arch]:
    """Yield the largest, the smallest, then the grid over the levels of the roles."""
    sizes: dict[str, int] = {}
    for choice in space.choices:
        name = role(choice.name)
        sizes[name] = max(sizes.get(name, 1), len(choice.values))
    steps = [np.linspace(0.0, 1.0, min(levels, size)) if size > 1 else [0.0] for size in
             sizes.values()]  # fmt: skip
    yield space.largest
    yield space.smallest
    for place in product(*steps):
        at = dict(zip(sizes, place, strict=True))
        wanted = {
            choice.name: choice.values[
                round(float(at[role(choice.name)]) * (len(choice.values) - 1))
            ]
            for choice in space.choices
        }
        try:
            yield space.arch(wanted)
        except InputError:  # the grid's point breaks a constraint of the space
            continue
