"""Which archs a training step trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from manynet.errors import InputError
from manynet.space import Arch, Space

__all__ = ["Sampler", "Sandwich", "Uniform"]

By = Literal["arch", "choice"]


class Sampler(Protocol):
    """Draws the archs of one step. Any object with this method will do."""

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return the archs of one step, drawn from `space` with `rng` and nothing else.

        A training run can then be repeated, and every process of a parallel one draws the same.
        """


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


def _check_by(by: str) -> None:
    if by not in ("arch", "choice"):
        raise InputError(f'by={by!r} is unknown; use "choice" or "arch"')
