"""What a run says while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Event", "Tell", "silent"]


@dataclass(frozen=True)
class Event:
    """One piece of news of a run.

    Args:
        stage: what it works on, in words for people: `"train the family"`.
        done: how much of the stage is done; equal to `total` at its end.
        total: how much there is to do.
        text: what is worth knowing now, such as the loss.
    """

    stage: str
    done: int
    total: int
    text: str = ""


Tell = Callable[[Event], object]


def silent(event: Event) -> None:
    """Say nothing."""
