"""Which archs a training step trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal, Protocol

import numpy as np

from manynet.errors import InputError
from manynet.space import Arch, Space, Value

__all__ = ["Fixed", "Sampler", "Sandwich", "Staircase", "Uniform", "drawn"]

By = Literal["arch", "choice"]


class Sampler(Protocol):
    """Draws the archs of one step. Any object with this method will do.

    One that goes by the number of the step has `archs_at(space, rng, step)` too, which training
    calls instead.
    """

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return the archs of one step, drawn from `space` with `rng` and nothing else.

        A training run can then be repeated, and every process of a parallel one draws the same.
        """


def drawn(sampler: Sampler, space: Space, rng: np.random.Generator, step: int) -> Sequence[Arch]:
    """Return the archs that a sampler draws for a step, counted from 0."""
    by_step: Callable[..., Sequence[Arch]] | None = getattr(sampler, "archs_at", None)
    return sampler.archs(space, rng) if by_step is None else by_step(space, rng, step)


@dataclass(frozen=True)
class Fixed:
    """Draws the same archs in every step: one task at a time, or a few members that matter.

    Args:
        members: the archs; choices that one leaves out are taken from the largest.

    Example:
        >>> from manynet.space import Choice, Space
        >>> space = Space((Choice("task", (0, 1, 2)),))
        >>> [arch["task"] for arch in Fixed({"task": 1}).archs(space, np.random.default_rng(0))]
        [1]
    """

    members: tuple[Mapping[str, Value], ...]

    def __init__(self, *members: Mapping[str, Value]) -> None:
        if not members:
            raise InputError("Fixed(): a step needs at least one arch")
        object.__setattr__(self, "members", members)

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return the archs."""
        return [space.arch(member) for member in self.members]


@dataclass(frozen=True)
class Uniform:
    """Draws `n` archs at random.

    Args:
        n: archs a step.
        by: `"choice"` draws each choice by itself, which balances small and large values;
            `"arch"` gives every arch of the space the same chance.

    Example:
        >>> from manynet.space import Choice, Space
        >>> space = Space((Choice("width", (8, 16)),))
        >>> len(Uniform(3).archs(space, np.random.default_rng(0)))
        3
    """

    n: int = 1
    by: By = "choice"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"Uniform(n={self.n}): a step needs at least one arch")
        _check_by(self.by)

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return `n` archs."""
        return [space.sample(rng, by=self.by) for _ in range(self.n)]


@dataclass(frozen=True)
class Sandwich:
    """Draws the largest arch, the smallest, and some at random: both ends bound all the rest.

    A space with a single arch gets that one arch.

    Args:
        random: archs at random between the two.
        by: as for `Uniform`.

    Reference: Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
        2019, arXiv 1903.05134; Yu et al., "BigNAS", 2020, arXiv 2003.11142.

    Example:
        >>> from manynet.space import Choice, Space
        >>> space = Space((Choice("width", (8, 16, 32)),))
        >>> [arch["width"] for arch in Sandwich(0).archs(space, np.random.default_rng(0))]
        [32, 8]
    """

    random: int = 2
    by: By = "choice"

    def __post_init__(self) -> None:
        if self.random < 0:
            raise InputError(f"Sandwich(random={self.random}): it must be 0 or more")
        _check_by(self.by)

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return the largest arch, the smallest, and the random ones, in this order."""
        if space.largest == space.smallest:
            return [space.largest]
        drawn = [space.sample(rng, by=self.by) for _ in range(self.random)]
        return [space.largest, space.smallest, *drawn]


@dataclass(frozen=True)
class Staircase:
    """Draws the largest arch, some at random from large to small, and the smallest.

    For an objective in which each member learns from the one before it, see `Distill.chained`.

    Args:
        random: archs at random between the two.
        by: as for `Uniform`.
        rank: a pattern of names of choices; the mean of their places, from smallest value to
            largest, is an arch's size.

    Reference: Xu et al. 2023, arXiv 2308.07650 (group progressive guidance).

    Example:
        >>> from manynet.space import Choice, Space
        >>> space = Space((Choice("a.bits", (2, 4, 6, 8)), Choice("b.bits", (2, 4, 6, 8))))
        >>> drawn = Staircase(3).archs(space, np.random.default_rng(0))
        >>> [arch["a.bits"] + arch["b.bits"] for arch in drawn]
        [16, 14, 10, 6, 4]
    """

    random: int = 2
    by: By = "choice"
    rank: str = "*"

    def __post_init__(self) -> None:
        if self.random < 0:
            raise InputError(f"Staircase(random={self.random}): it cannot be negative")
        _check_by(self.by)

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return the largest arch, those drawn from large to small, then the smallest."""
        ranked = [n for n, name in enumerate(space.names) if fnmatch(name, self.rank)]
        if not ranked:
            raise InputError(f"Staircase(rank={self.rank!r}) matches no choice of the space")
        drawn = [space.sample(rng, by=self.by) for _ in range(self.random)]
        drawn.sort(key=lambda arch: -float(space.encode(arch)[ranked].mean()))
        return [space.largest, *drawn, space.smallest]


def _check_by(by: str) -> None:
    if by not in ("arch", "choice"):
        raise InputError(f'by={by!r} is unknown; use "choice" or "arch"')
