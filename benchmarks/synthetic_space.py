"""The synthetic space of R8: how many evaluations a search needs to 99 % of the hypervolume.

30 choices of 3 or 4 values; cost is a weighted mean, error falls with diminishing returns and
grows where neighbors differ. Both are minimized. The reference front is the union of ten runs of
pymoo's NSGA-II of 20,000 evaluations each. The optimizer's own time is that of the processor.

    python benchmarks/synthetic_space.py --seeds 10 --evaluations 20000 --out synthetic.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manynet.search import Metric, Record, search
from manynet.search.front import hypervolume, non_dominated
from manynet.space import Arch, Choice, Space

REFERENCE = np.array([1.1, 1.1])
GENES = 30
Reals = NDArray[np.float64]


class Synthetic:
    """The space and its function; `evaluate` takes an arch, `points` rows of levels `(N, 30)`."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.levels = rng.integers(3, 5, GENES)
        costs, gains = rng.uniform(0.5, 2, GENES), rng.uniform(0.2, 1, GENES)
        self._costs, self._gains = costs / costs.sum(), gains / gains.sum()
        self._last = self.levels - 1
        self.space = Space(
            tuple(
                Choice(f"gene{gene:02}", tuple(range(levels)))
                for gene, levels in enumerate(self.levels.tolist())
            )
        )

    def points(self, rows: NDArray[np.int64]) -> Reals:
        """Return (error, cost) of each row."""
        z = rows / self._last
        cost = z @ self._costs
        rough = 0.02 * np.abs(np.diff(z, axis=1)).mean(axis=1)
        return np.stack([1 - np.sqrt(z) @ self._gains + rough, cost], axis=1)

    def evaluate(self, arch: Arch) -> dict[str, float]:
        """Return `error` and `cost` of an arch."""
        error, cost = self.points(np.array([list(arch.values())]))[0]
        return {"error": float(error), "cost": float(cost)}


def plain_nsga2(problem: Synthetic, seed: int, evaluations: int) -> tuple[Reals, float]:
    """Run pymoo's NSGA-II with its own operators for integers (population 50).

    Returns:
        All points in the order of evaluation, and the optimizer's own seconds.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    rounded: dict[str, Any] = {"prob": 1.0, "eta": 3.0, "vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(
        pop_size=50,
        sampling=IntegerRandomSampling(),
        crossover=SBX(**rounded),
        mutation=PM(**rounded),
        eliminate_duplicates=True,
        seed=seed,
        termination=NoTermination(),
        output=None,
    )
    algorithm.setup(Problem(GENES, n_obj=2, xl=np.zeros(GENES), xu=problem.levels - 1, vtype=int))
    points: list[Reals] = []
    seconds = 0.0
    while sum(map(len, points)) < evaluations:
        start = time.process_time()
        asked = algorithm.ask()
        seconds += time.process_time() - start
        points.append(problem.points(asked.get("X").astype(int)))
        asked.set("F", points[-1])
        start = time.process_time()
        algorithm.tell(infills=asked)
        seconds += time.process_time() - start
    return np.concatenate(points)[:evaluations], seconds


def ours(strategy: Any) -> Callable[[Synthetic, int, int], tuple[Reals, float]]:
    """Return a run of `manynet.search` with this strategy."""

    def run(problem: Synthetic, seed: int, evaluations: int) -> tuple[Reals, float]:
        inside = 0.0

        def evaluate(arch: Arch) -> Mapping[str, float]:
            nonlocal inside
            start = time.process_time()
            values = problem.evaluate(arch)
            inside += time.process_time() - start
            return values

        start = time.process_time()
        front = search(
            problem.space,
            Metric("error", higher_is_better=False),
            costs=["cost"],
            evaluate=evaluate,
            evaluations=evaluations,
            population=50,
            strategy=strategy,
            seed=seed,
        )
        seconds = time.process_time() - start - inside
        return np.array(list(map(_point, front.history))), seconds

    return run


def _point(record: Record) -> tuple[float, float]:
    return record.quality, record.costs["cost"]


def growth(points: Reals, step: int = 50) -> Iterator[tuple[int, float]]:
    """Yield (evaluations, hypervolume) after every `step` evaluations."""
    front = np.empty((0, points.shape[1]))
    for end in range(step, len(points) + step, step):
        front = np.concatenate([front, points[end - step : end]])
        front = front[non_dominated(front)]
        yield min(end, len(points)), hypervolume(front, REFERENCE)


def needed(points: Reals, aim: float) -> int | None:
    """Return after how many evaluations the hypervolume reaches `aim`, None if it does not."""
    return next((count for count, volume in growth(points) if volume >= aim), None)


def measure(seeds: int, evaluations: int) -> dict[str, Any]:
    """Return, for each search, evaluations to 99 % and own microseconds an evaluation."""
    problem = Synthetic()
    front = np.empty((0, 2))
    for seed in range(10):
        front = np.concatenate([front, plain_nsga2(problem, 1000 + seed, 20_000)[0]])
        front = front[non_dominated(front)]
    volume = hypervolume(front, REFERENCE)
    arms = {"pymoo": plain_nsga2, "nsga2": ours("nsga2"), "random": ours("random")}
    result: dict[str, Any] = {"reference_hypervolume": volume, "arms": {}}
    for name, run in arms.items():
        counts, shares, micros = [], [], []
        for seed in range(seeds):
            points, seconds = run(problem, seed, evaluations)
            counts.append(needed(points, 0.99 * volume))
            shares.append({n: v / volume for n, v in growth(points) if n in (300, 1000, 5000)})
            micros.append(1e6 * seconds / len(points))
        result["arms"][name] = {
            "evaluations_to_99": counts,
            "median": statistics.median(evaluations * 10 if c is None else c for c in counts),
            "share_of_hypervolume": {
                n: statistics.median(share[n] for share in shares) for n in shares[0]
            },
            "own_microseconds": statistics.median(micros),
        }
    libraries = ("numpy", "pymoo", "torch")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {**result, "versions": {**versions, "python": platform.python_version()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.seeds, arguments.evaluations), indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
