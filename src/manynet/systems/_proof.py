"""Runs the arms of a proof, one seed after the other, and keeps each as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from manynet._files import read_json, write_json
from manynet.errors import InputError, StorageError
from manynet.systems._result import Measured

__all__ = ["Figures", "Proof"]


@dataclass(frozen=True)
class Figures:
    """What the function of an arm returns; the clock is the proof's.

    Args:
        value: the metric.
        samples_seen: how many samples were trained on, counted once a forward-backward pass.
        parameters: that were trained.
        more: other figures, by name.
    """

    value: float
    samples_seen: int
    parameters: int
    more: Mapping[str, float] = field(default_factory=dict)


Tell = Callable[[str, int, "Measured | None"], None]
"""Told of an arm and a seed when it begins (None) and when it ends."""


class Proof:
    """The arms of one proof. What was measured before is not measured again.

    Args:
        seeds: one record of every arm for each.
        budget: share of the proof's full size, above 0 and at most 1; a smaller one thins the data
            or the steps of all arms alike, and its figures are kept apart.
        folder: where finished arms are kept; nowhere if None.
        tell: told of progress.

    Example:
        >>> proof = Proof(seeds=(0, 1))
        >>> proof.run("ours", lambda seed: Figures(0.9 + seed / 100, 10, 5))
        >>> [record.value for record in proof.arms["ours"]]
        [0.9, 0.91]
    """

    def __init__(
        self,
        *,
        seeds: Sequence[int] = (0, 1, 2),
        budget: float = 1.0,
        folder: Path | None = None,
        tell: Tell | None = None,
    ) -> None:
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError(f"seeds={list(seeds)}: give at least one, each once")
        if not 0 < budget <= 1:
            raise InputError(f"budget={budget}: it is a share, above 0 and at most 1")
        self.seeds = tuple(seeds)
        self.budget = budget
        self.folder = folder
        self._tell = tell or (lambda arm, seed, measured: None)
        self._arms: dict[str, dict[int, Measured]] = {}

    def run(self, arm: str, function: Callable[[int], Figures]) -> None:
        """Measure an arm: call `function` once for each seed that has no record yet."""
        for seed in self.seeds:
            kept = self._kept(arm, seed)
            if kept is None:
                self._tell(arm, seed, None)
                begun = time.monotonic()
                found = function(seed)
                seconds = round(time.monotonic() - begun, 2)
                kept = Measured(
                    seed, found.value, seconds, found.samples_seen, found.parameters, found.more
                )
                if self.folder is not None:
                    write_json(self._path(arm, seed), asdict(kept))
            self._arms.setdefault(arm, {})[seed] = kept
            self._tell(arm, seed, kept)

    @property
    def arms(self) -> Mapping[str, tuple[Measured, ...]]:
        """The records of each arm so far, in the order of the seeds."""
        return {
            arm: tuple(found[seed] for seed in self.seeds if seed in found)
            for arm, found in self._arms.items()
        }

    def share(self, full: int) -> int:
        """Return `full`, a number of samples or steps, at the proof's budget; at least 1."""
        return max(1, round(self.budget * full))

    def _path(self, arm: str, seed: int) -> Path:
        assert self.folder is not None
        return self.folder / f"budget-{self.budget:g}" / f"{arm}-{seed}.json"

    def _kept(self, arm: str, seed: int) -> Measured | None:
        if self.folder is None or not self._path(arm, seed).is_file():
            return None
        path = self._path(arm, seed)
        try:
            return Measured(**read_json(path))
        except TypeError as error:
            raise StorageError(f"{path} is damaged ({error}); remove it") from error
