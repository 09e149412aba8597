"""What is left of earlier tasks after later ones."""

from __future__ import annotations

from collections.abc import Sequence

from manynet.errors import InputError

__all__ = ["average_accuracy", "forgetting"]

Table = Sequence[Sequence[float]]


def average_accuracy(table: Table) -> float:
    """Return the mean over tasks after the last one was learned.

    Args:
        table: row `t` holds the accuracy on each task `0..t` after learning task `t`.

    Raises:
        InputError: it is empty, or a row does not have the right length.

    Example:
        >>> average_accuracy([[0.9], [0.7, 0.8]])
        0.75
    """
    _check(table)
    return sum(table[-1]) / len(table[-1])


def forgetting(table: Table) -> list[float]:
    """Return for each task what the last accuracy has lost against the best one: 0 or less.

    Args:
        table: as for `average_accuracy`.

    Raises:
        InputError: as there.

    Example:
        >>> [round(value, 3) for value in forgetting([[0.9], [0.7, 0.8], [0.75, 0.8, 0.9]])]
        [-0.15, 0.0, 0.0]
    """
    _check(table)
    last = table[-1]
    return [last[task] - max(row[task] for row in table[task:]) for task in range(len(last))]


def _check(table: Table) -> None:
    lengths = [len(row) for row in table]
    if not table or lengths != list(range(1, len(table) + 1)):
        raise InputError(
            f"the table's rows have lengths {lengths}; after task t it needs those of tasks 0 to t"
        )
