"""Many archs of a space at once, as rows of positions.

Letters in shapes: `N` archs, `C` choices, `F` the values of all choices together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from manynet.errors import InputError
from manynet.space._arch import Arch
from manynet.space._space import Space

__all__ = ["Grid"]

Rows: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]


class Grid:
    """A space for those who work on thousands of archs at once: each is a row of positions.

    Row `n`, column `c` says which value of choice `c` arch `n` has. Rows of members are *folded*:
    choices that do not matter are at position 0, so that one member has one row.

    Args:
        space: whose archs the rows stand for.
        canonical: from an arch to the one that stands for all that are the same network, where
            more than inactive choices makes them so (the order of equal branches, say).

    Example:
        >>> from manynet.space import Choice
        >>> space = Space(
        ...     (Choice("depth", (1, 2)), Choice("kernel", (3, 5), active_when={"depth": (2,)}))
        ... )
        >>> grid = Grid(space)
        >>> grid.rows([space.largest, space.smallest]).tolist()
        [[1, 1], [0, 0]]
        >>> grid.onehot(grid.rows([space.largest, space.smallest])).tolist()
        [[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, space: Space, *, canonical: Callable[[Arch], Arch] | None = None) -> None:
        self.space = space
        self.sizes: Rows = np.array([len(choice.values) for choice in space], dtype=np.int64)
        self._canonical = None if canonical is None else functools.lru_cache(100_000)(canonical)
        self._parents = [
            (condition.child, parent, np.isin(np.arange(self.sizes[parent]), list(allowed)))
            for condition in space._lattice.conditions
            for parent, allowed in condition.parents
        ]

    @property
    def width(self) -> int:
        """The number of choices, `C`."""
        return len(self.sizes)

    def rows(self, archs: Iterable[Arch]) -> Rows:
        """Return the folded rows `(N, C)` of whole archs. Raises `InputError` for foreign ones."""
        found = [self.space._positions(arch) for arch in archs]
        return self.folded(np.array(found, dtype=np.int64).reshape(-1, self.width))

    def archs(self, rows: Rows) -> list[Arch]:
        """Return the archs of rows `(N, C)` that `repaired` or `rows` gave."""
        return list(map(self.space._arch, rows.tolist()))

    def active(self, rows: Rows) -> Flags:
        """Return which choices matter, `(N, C)`."""
        flags = np.ones(rows.shape, dtype=np.bool_)
        for child, parent, allowed in self._parents:  # parents come before their children
            flags[:, child] &= flags[:, parent] & allowed[rows[:, parent]]
        return flags

    def folded(self, rows: Rows) -> Rows:
        """Return the rows `(N, C)` with the choices that do not matter at 0."""
        return np.where(self.active(rows), rows, 0) if self._parents else rows

    def repaired(self, rows: Rows) -> Rows:
        """Return canonical rows `(N, C)` that keep the constraints: the nearest to these.

        Raises:
            InputError: a position is outside its choice, or the constraints are too entangled.
        """
        if ((rows < 0) | (rows >= self.sizes)).any():
            raise InputError("a row has a position that its choice does not have; clip it first")
        rows = self.folded(rows)
        lattice = self.space._lattice
        if lattice.relations:
            near = [row if lattice.valid(row) else lattice.nearest(row) for row in rows.tolist()]
            rows = np.array(near, dtype=np.int64).reshape(rows.shape)
        if self._canonical is not None:
            rows = self.rows(map(self._canonical, self.archs(rows)))
        return rows

    @functools.cached_property
    def _first(self) -> Rows:
        """Where the block of each choice begins in a one-hot row, `(C,)`."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    def onehot(self, rows: Rows) -> Reals:
        """Return a block for each choice, `(N, F)`: 1 at its value, all 0 where it is inactive."""
        found = np.zeros((len(rows), int(self.sizes.sum())))
        flags = self.active(rows)
        number, column = np.nonzero(flags)
        found[number, self._first[column] + rows[number, column]] = 1.0
        return found

    def sample(self, rng: np.random.Generator, count: int) -> Rows:
        """Draw rows `(count, C)`, every choice alike; where constraints refuse, the nearest."""
        return self.repaired(rng.integers(0, self.sizes, (count, self.width)))
