"""Every error that manynet raises on purpose, sorted by what the user can do about it.

A message has three parts: what was asked for and where, what was found, and what to try.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "InputError",
    "ManynetError",
    "MissingExtraError",
    "StorageError",
    "TraceError",
    "TrainingError",
    "VerificationError",
    "WorkerError",
    "did_you_mean",
]


class ManynetError(Exception):
    """The base of all errors below: catch this one to catch them all."""


class InputError(ManynetError, ValueError):
    """Something handed in does not fit: an unknown value, a wrong shape, a missing file."""


class TraceError(ManynetError):
    """A model cannot be followed, so no family can be made of it as it stands."""


class TrainingError(ManynetError):
    """Training cannot go on: a loss that is not finite, data that ran out."""


class StorageError(ManynetError):
    """A file cannot be read or written: damaged, foreign, truncated, no space, no permission."""


class WorkerError(ManynetError):
    """The workers of a search are lost, or cannot do what they are asked for."""


class VerificationError(ManynetError):
    """A deployed file disagrees with the network that it was made from."""


class BudgetError(ManynetError):
    """No member satisfies the budget; `nearest` is the one that misses it by least."""

    def __init__(self, message: str, nearest: object = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class MissingExtraError(ManynetError, ImportError):
    """An optional library is not installed.

    Args:
        library: the distribution that is missing, for example `"pymoo"`.
        extra: the extra of manynet that brings it, for example `"search"`.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"this needs {library}, which is not installed; try: pip install 'manynet[{extra}]'"
        )
        self.library = library
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Let a worker's error reach the process that asked."""
        return type(self), (self.library, self.extra)


def did_you_mean(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return ` (did you mean 'x'?)` for the nearest word; else `otherwise`, or all known words.

    Example:
        >>> did_you_mean("widht", ["width", "depth"])
        " (did you mean 'width'?)"
        >>> did_you_mean("colour", ["width", "depth"])
        ' (known: depth, width)'
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    if otherwise is not None:
        return otherwise
    return f" (known: {', '.join(names)})" if names else ""
