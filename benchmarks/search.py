"""R8: how many evaluations a search needs, and what the optimizer itself takes.

Three problems. The synthetic space has 30 choices of 3 or 4 values; cost is a weighted mean, error
falls with diminishing returns and grows where neighbors differ; its reference front is the union
of ten runs of pymoo's NSGA-II of 20,000 evaluations each. The digits are a small CNN trained as a
family, whose members are all judged once: accuracy on the validation images against MACs; the
reference is the front of all. CIFAR-10 is a quarter-width ResNet-18, trained as a family of 1.7
million members, each judged when a search first asks for it and kept; the reference is the union
of ten runs of pymoo's NSGA-II of 300 evaluations each. Every search is given the same two
objectives to minimize.

    python benchmarks/search.py             # measure what is missing; go on where it was stopped
    python benchmarks/search.py digits "manynet LINAS"      # a part of it
    python benchmarks/search.py --starts    # both beginnings of LINAS, on seeds of their own
    python benchmarks/search.py --page     # draw the curves and write docs/results/search.md

The optimizer's own time is that of the processor, without the time in the evaluations.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manynet.report._figures import Series
from manynet.report._svg import Axis, draw
from manynet.search import Linas, Metric, Record, search
from manynet.search.front import hypervolume, non_dominated
from manynet.space import Arch, Choice, Grid, Space

GENES, SEEDS, SHARE = 30, 10, 0.99
RESULTS = Path(__file__).parent / "results" / "search"
DOCS = Path(__file__).parents[1] / "docs"
Reals = NDArray[np.float64]
Rows = NDArray[np.int64]


class Problem(Protocol):
    """What is searched: (error, cost) of rows of positions, both in about 0 to 1."""

    space: Space
    reference: Reals

    def points(self, rows: Rows) -> Reals:
        """Return (error, cost) of each row, `(N, 2)`."""
        ...


class Synthetic:
    """The space of R8 and its function."""

    reference = np.array([1.1, 1.1])

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


class Digits:
    """All members of a small CNN trained on the digits, judged once and kept in a file."""

    reference = np.array([1.1, 1.1])

    def __init__(self) -> None:
        import torch

        import manynet

        path = RESULTS / "digits.json"
        data = manynet.load_data("digits", seed=0)
        torch.manual_seed(0)
        family = manynet.elastic(
            manynet.build("manynet:small_cnn"), data.example_inputs(), width=(0.25, 0.5, 1.0)
        )
        self.space, self._grid = family.space, Grid(family.space)
        if not path.is_file():
            manynet.train(family, data.train, epochs=30, seed=0)
            front = search(
                family,
                manynet.accuracy(data.val),
                costs=[manynet.macs()],
                strategy="exhaustive",
                evaluations=self.space.count,
                calibrate=lambda member: manynet.calibrate(member, data.train, batches=4),
            )
            rows = self._grid.rows(record.arch for record in front.history).tolist()
            values = [(record.quality, record.costs["macs"]) for record in front.history]
            path.write_text(json.dumps({"rows": rows, "values": values}) + "\n")
        found = json.loads(path.read_text())
        quality, macs = np.array(found["values"]).T
        error = (quality.max() - quality) / np.ptp(quality)
        points = np.stack([error, (macs - macs.min()) / np.ptp(macs)], axis=1)
        self.all = points
        self._known = dict(zip(map(tuple, found["rows"]), points, strict=True))

    def points(self, rows: Rows) -> Reals:
        """Return (error, cost) of each row, both from 0 (best of all) to 1 (worst of all)."""
        return np.array([self._known[tuple(row)] for row in self._grid.repaired(rows).tolist()])


class Cifar:
    """Members of a family of ResNet-18 on CIFAR-10, judged when asked for and kept in a file.

    The family is trained when a member has to be judged and `runs/search-cifar10` does not hold it.
    """

    reference = np.array([1.1, 1.1])

    def __init__(self) -> None:
        import torch

        import manynet
        from quality import network

        self._path = RESULTS / "cifar10.json"
        stored = json.loads(self._path.read_text()) if self._path.is_file() else {}
        pairs = zip(stored.get("rows", []), stored.get("values", []), strict=True)
        self._known: dict[tuple[int, ...], tuple[float, float]] = {
            tuple(row): tuple(values) for row, values in pairs
        }
        self._weights: str | None = stored.get("weights")
        self._family = manynet.elastic(
            network(0).train(), torch.zeros(2, 3, 32, 32), width=(0.25, 0.5, 1.0)
        )
        self._data: Any = None
        self.space, self._grid = self._family.space, Grid(self._family.space)
        ends = self._grid.rows([self.space.largest, self.space.smallest])
        self._most, self._least = self._values(ends)

    def _train(self) -> None:
        """Get the trained family, and make sure that it is the one of the stored members."""
        import manynet
        from manynet.data import crop_and_flip
        from quality import network

        folder = RESULTS.parents[2] / "runs" / "search-cifar10"
        self._data = manynet.load_data("cifar10", limit=6_000, seed=0)
        if (folder / "family.json").is_file():
            self._family = manynet.load(folder, model=network(0))
        else:
            manynet.train(
                self._family, self._data.train, epochs=20, batch_size=64, learning_rate=0.05,
                clip=5.0, weight_decay=5e-4, augment=crop_and_flip(), seed=0,
                sampler=manynet.Sandwich(1), objective=manynet.Distill(labels=0.5),
            )  # fmt: skip
            self._family.save(folder)
        digest = hashlib.sha256()
        for tensor in self._family.state_dict().values():
            digest.update(tensor.detach().numpy().tobytes())
        if self._weights not in (None, digest.hexdigest()):
            raise SystemExit(
                f"the family trained here is another than that of {self._path}; remove it and the "
                "cifar10-*.json beside it to measure all of them anew"
            )
        self._weights = digest.hexdigest()

    def _values(self, rows: Rows) -> Reals:
        """Return (accuracy, MACs) of each row."""
        keys = list(map(tuple, self._grid.repaired(rows).tolist()))
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        for key, arch in zip(new, self._grid.archs(np.array(new)) if new else [], strict=True):
            self._known[key] = self._judged(arch)
        if new:
            stored = {
                "weights": self._weights,
                "rows": list(self._known),
                "values": list(self._known.values()),
            }
            self._path.write_text(json.dumps(stored) + "\n")
        return np.array([self._known[key] for key in keys])

    def _judged(self, arch: Arch) -> tuple[float, float]:
        import manynet

        if self._data is None:
            self._train()
        member = self._family.eval().extract(arch)
        manynet.calibrate(member, self._data.train, batches=2)
        macs = manynet.macs()(member, self._data.example_inputs())
        return float(manynet.accuracy(self._data.val)(member)), float(macs)

    def points(self, rows: Rows) -> Reals:
        """Return (error, cost) of each row: 0 is the largest's or the smallest's, 1 the other's."""
        (quality, macs), whole = self._values(rows).T, self._most - self._least
        error, cost = (self._most[0] - quality) / whole[0], (macs - self._least[1]) / whole[1]
        return np.stack([error, cost], axis=1)


class CifarModel(Cifar):
    """As `Cifar`, for seeds whose members were not all judged: the others are told by a model.

    Trees fitted to all members that were judged, and the spread of what they err there (found by
    cross-validation), drawn once for each member.
    """

    _spread = 0.0072

    def __init__(self) -> None:
        self._trees: Any = None
        super().__init__()
        from sklearn.ensemble import HistGradientBoostingRegressor

        made = HistGradientBoostingRegressor(max_iter=400, learning_rate=0.05, random_state=0)
        rows, quality = list(self._known), [value for value, _ in self._known.values()]
        self._trees = made.fit(np.array(rows), np.array(quality))

    def _values(self, rows: Rows) -> Reals:
        """Return (accuracy, MACs) of each row."""
        import manynet

        keys = list(map(tuple, self._grid.repaired(rows).tolist()))
        for key in (key for key in dict.fromkeys(keys) if key not in self._known):
            seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")
            off = self._spread * np.random.default_rng(seed).normal()
            (arch,) = self._grid.archs(np.array([key]))
            macs = manynet.macs().of_arch(self._family, arch)
            self._known[key] = (float(self._trees.predict(np.array([key]))[0] + off), float(macs))
        return np.array([self._known[key] for key in keys])


def plain_nsga2(
    problem: Problem,
    seed: int,
    evaluations: int,
    *,
    population: int,
    rounded: Mapping[str, Any],
    two_point: bool = False,
) -> tuple[Reals, float]:
    """Run pymoo's NSGA-II over whole numbers.

    Returns:
        All points in the order of evaluation, and the optimizer's own seconds.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as Theirs
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.pntx import TwoPointCrossover
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    grid = Grid(problem.space)
    how = {"vtype": float, "repair": RoundingRepair(), **rounded}
    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=TwoPointCrossover() if two_point else SBX(**how),
        mutation=PM(**how),
        eliminate_duplicates=True,
        seed=seed,
        termination=NoTermination(),
        output=None,
    )
    algorithm.setup(Theirs(grid.width, n_obj=2, xl=0 * grid.sizes, xu=grid.sizes - 1, vtype=int))
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


def optuna_nsga2(
    problem: Problem, seed: int, evaluations: int, *, population: int
) -> tuple[Reals, float]:
    """Run optuna's NSGA-II."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    points: list[Reals] = []
    seconds = 0.0
    for _ in range(evaluations):
        start = time.process_time()
        trial = study.ask()
        row = [trial.suggest_int(c.name, 0, len(c.values) - 1) for c in problem.space]
        seconds += time.process_time() - start
        points.append(problem.points(np.array([row]))[0])
        start = time.process_time()
        study.tell(trial, points[-1].tolist())
        seconds += time.process_time() - start
    return np.array(points), seconds


def ours(
    problem: Problem, seed: int, evaluations: int, *, population: int, strategy: Any
) -> tuple[Reals, float]:
    """Run `manynet.search`."""
    grid, inside = Grid(problem.space), 0.0

    def evaluate(arch: Arch) -> Mapping[str, float]:
        nonlocal inside
        start = time.process_time()
        error, cost = problem.points(grid.rows([arch]))[0]
        inside += time.process_time() - start
        return {"error": float(error), "cost": float(cost)}

    start = time.process_time()
    front = search(
        problem.space,
        Metric("error", higher_is_better=False),
        costs=["cost"],
        evaluate=evaluate,
        evaluations=evaluations,
        population=population,
        strategy=strategy,
        seed=seed,
    )
    seconds = time.process_time() - start - inside
    return np.array(list(map(_point, front.history))), seconds


def _point(record: Record) -> tuple[float, float]:
    return record.quality, record.costs["cost"]


def growth(points: Reals, reference: Reals, step: int) -> Iterator[tuple[int, float]]:
    """Yield (evaluations, hypervolume) after every `step` evaluations."""
    front = np.empty((0, points.shape[1]))
    for end in range(step, len(points) + step, step):
        front = np.concatenate([front, points[end - step : end]])
        front = front[non_dominated(front)]
        yield min(end, len(points)), hypervolume(front, reference)


ARMS: Mapping[str, Callable[..., tuple[Reals, float]]] = {
    "pymoo NSGA-II": functools.partial(plain_nsga2, rounded={"prob": 0.9, "eta": 15.0}),
    "pymoo NSGA-II, eta 3": functools.partial(plain_nsga2, rounded={"prob": 1.0, "eta": 3.0}),
    "pymoo NSGA-II, two-point": functools.partial(
        plain_nsga2, rounded={"prob": 0.9, "eta": 3.0}, two_point=True
    ),
    "optuna NSGA-II": optuna_nsga2,
    "random": functools.partial(ours, strategy="random"),
    "WeakNAS": functools.partial(ours, strategy="weak_nas"),
    "manynet NSGA-II": functools.partial(ours, strategy="nsga2"),
    "manynet LINAS": functools.partial(ours, strategy="linas"),
    "manynet LINAS, random start": functools.partial(
        ours, strategy=functools.partial(Linas, spread=False)
    ),
}
SHOWN = ("manynet LINAS", "WeakNAS", "manynet NSGA-II", "pymoo NSGA-II, two-point")
BUDGETS: Mapping[str, Mapping[str, int]] = {
    "synthetic": {
        **dict.fromkeys(ARMS, 40_000),
        "pymoo NSGA-II": 20_000,
        "manynet NSGA-II": 8_000,
        "optuna NSGA-II": 2_000,
        "random": 2_000,
        "WeakNAS": 600,
        "manynet LINAS": 300,
        "manynet LINAS, random start": 300,
    },
    "digits": {
        **dict.fromkeys(ARMS, 600),
        "WeakNAS": 300,
        "manynet LINAS": 300,
        "manynet LINAS, random start": 300,
    },
    "cifar10": {
        **dict.fromkeys(
            ("pymoo NSGA-II, two-point", "optuna NSGA-II", "random", "manynet NSGA-II"), 200
        ),
        "WeakNAS": 120,
        "manynet LINAS": 120,
        "manynet LINAS, random start": 120,
    },
}
POPULATIONS = {"synthetic": 50, "digits": 20, "cifar10": 20}
STARTS = ("manynet LINAS", "manynet LINAS, random start")
FRESH = range(100, 110)  # seeds on which neither beginning was chosen
REFERENCES = {"synthetic": 20_000, "cifar10": 300}
PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "synthetic": Synthetic,
    "digits": Digits,
    "cifar10": Cifar,
}


def best_volume(name: str, problem: Problem) -> float:
    """Return the hypervolume of the reference front, measured once."""
    if isinstance(problem, Digits):
        return hypervolume(problem.all, problem.reference)
    path = RESULTS / f"{name}-reference.json"
    if not path.is_file():
        front = np.empty((0, 2))
        for seed in range(10):
            points, _ = ARMS["pymoo NSGA-II, eta 3"](
                problem, 1000 + seed, REFERENCES[name], population=POPULATIONS[name]
            )
            front = np.concatenate([front, points])
            front = front[non_dominated(front)]
        path.write_text(json.dumps({"hypervolume": hypervolume(front, problem.reference)}) + "\n")
    return float(json.loads(path.read_text())["hypervolume"])


def measure(name: str, chosen: Iterable[str]) -> None:
    """Measure the seeds that are missing of each search, and keep each as soon as it is there."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    problem, population = PROBLEMS[name](), POPULATIONS[name]
    volume, step = best_volume(name, problem), population // 5
    for arm in chosen:
        path = RESULTS / f"{name}-{arm.replace(',', '').replace(' ', '-').lower()}.json"
        found = json.loads(path.read_text()) if path.is_file() else {"arm": arm, "seeds": {}}
        for seed in range(SEEDS):
            if str(seed) in found["seeds"]:
                continue
            evaluations = BUDGETS[name][arm]
            points, seconds = ARMS[arm](problem, seed, evaluations, population=population)
            one = judged(points, problem.reference, volume, step)
            one["own_microseconds"] = round(1e6 * seconds / len(points), 1)
            found["seeds"][str(seed)] = one | {"curve": one["curve"][:100]}
            found["evaluations"], found["versions"] = evaluations, versions()
            path.write_text(json.dumps(found) + "\n")
            print(name, arm, seed, found["seeds"][str(seed)]["evaluations_to_99"], flush=True)


def judged(points: Reals, reference: Reals, volume: float, step: int) -> dict[str, Any]:
    """Return when the points reach 99 % of a hypervolume, and what share they have on the way."""
    curve = [(n, v / volume) for n, v in growth(points, reference, step)]
    return {
        "evaluations_to_99": next((n for n, share in curve if share >= SHARE), None),
        "curve": [(n, round(share, 5)) for n, share in curve],
    }


def measure_starts() -> None:
    """Compare LINAS' two beginnings on seeds that nothing was chosen on; keep what is there."""
    path = RESULTS / "starts.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name, make in (PROBLEMS | {"cifar10": CifarModel}).items():
        problem, population, volume = make(), POPULATIONS[name], 0.0
        for seed, arm in itertools.product(FRESH, STARTS):
            seeds = found.setdefault(name, {}).setdefault(arm, {"seeds": {}})["seeds"]
            if str(seed) not in seeds:
                volume = volume or best_volume(name, problem)
                points, _ = ARMS[arm](problem, seed, BUDGETS[name][arm], population=population)
                seeds[str(seed)] = judged(points, problem.reference, volume, 1)
                path.write_text(json.dumps(found) + "\n")
                print(name, arm, seed, seeds[str(seed)]["evaluations_to_99"], flush=True)


def versions() -> dict[str, str]:
    libraries = ("numpy", "optuna", "pymoo", "scikit-learn")
    return {name: importlib.metadata.version(name) for name in libraries} | {
        "python": platform.python_version()
    }


def needed(arm: Mapping[str, Any]) -> float:
    """Return the median of the evaluations that it took; infinite where most did not get there."""
    counts = [one["evaluations_to_99"] for one in arm["seeds"].values()]
    return statistics.median(math.inf if count is None else count for count in counts)


def page() -> None:
    """Write the page and its curves."""
    text = [HEAD]
    for name, words in WORDS.items():
        stored = [json.loads(path.read_text()) for path in RESULTS.glob(f"{name}-*.json")]
        arms = {one["arm"]: one for one in stored if "arm" in one}
        if not arms:
            continue
        drawing = draw(
            f"Hypervolume over evaluations: {name}",
            [Series(arm, *middle(arms[arm])) for arm in SHOWN if arm in arms],
            Axis("evaluations", may_be_log=False),
            Axis("share of the reference hypervolume", percent=True, may_be_log=False),
        )
        (DOCS / "assets" / f"search-{name}.svg").write_text(drawing)
        text.append(f"## {words}\n\n![Hypervolume over evaluations](../assets/search-{name}.svg)\n")
        text += table(arms)
        if name == "cifar10":
            text += shares(arms, (40, 80, 120, 200))
    text += starts()
    (DOCS / "results" / "search.md").write_text("\n".join(text) + "\n")


def middle(arm: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return the median curve of the seeds."""
    curves = [one["curve"] for one in arm["seeds"].values()]
    return (
        [float(n) for n, _ in curves[0]],
        [
            statistics.median(shares)
            for shares in zip(*([v for _, v in c] for c in curves), strict=True)
        ],
    )


def table(arms: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each search needed, against the better of pymoo's two settings."""
    peers = [arm for arm in arms if arm.startswith("pymoo")]
    theirs = min(needed(arms[arm]) for arm in peers)
    bound = "" if math.isfinite(theirs) else "below "
    theirs = min(theirs, arms[peers[0]]["evaluations"])
    yield "| search | seeds | evaluations to 99 %, median (least to most) | over pymoo | own us |"
    yield "|---|---|---|---|---|"
    for arm in (arm for arm in ARMS if arm in arms):
        seeds = arms[arm]["seeds"].values()
        counts = sorted(
            math.inf if one["evaluations_to_99"] is None else one["evaluations_to_99"]
            for one in seeds
        )
        most = f"not in {arms[arm]['evaluations']:,}"
        said = [
            most if math.isinf(n) else f"{n:,.0f}"
            for n in (needed(arms[arm]), counts[0], counts[-1])
        ]
        ratio = needed(arms[arm]) / theirs
        over = f"{bound}{ratio:.3f}" if math.isfinite(ratio) else "-"
        own = statistics.median(one["own_microseconds"] for one in seeds)
        cells = (arm, len(counts), f"{said[0]} ({said[1]} to {said[2]})", over, f"{own:,.0f}")
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def shares(arms: Mapping[str, Any], counts: Iterable[int]) -> Iterator[str]:
    """Yield the share of the reference hypervolume that each search has after some evaluations."""
    yield "Share of the reference hypervolume after so many evaluations, median (least to most):\n"
    yield f"| search | {' | '.join(map(str, counts))} |"
    yield "|---" * (1 + len(tuple(counts))) + "|"
    for arm in (arm for arm in ARMS if arm in arms):
        curves = [dict(one["curve"]) for one in arms[arm]["seeds"].values()]
        cells = [arm]
        for count in counts:
            found = sorted(curve[count] for curve in curves if count in curve)
            cells.append(
                f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"
                if found
                else "-"
            )
        yield f"| {' | '.join(cells)} |"
    yield ""


def starts() -> Iterator[str]:
    """Yield how LINAS' two beginnings compare on seeds of their own."""
    path = RESULTS / "starts.json"
    if not path.is_file():
        return
    yield STARTS_WORDS
    yield (
        "| problem | beginning | seeds | evaluations to 99 %, median (least to most) | "
        "share of the reference after so many evaluations, median |"
    )
    yield "|---|---|---|---|---|"
    for name, arms in json.loads(path.read_text()).items():
        for arm in STARTS:
            seeds = list(arms[arm]["seeds"].values())
            counts = sorted(one["evaluations_to_99"] or math.inf for one in seeds)
            said = [
                f"not in {BUDGETS[name][arm]}" if math.isinf(n) else f"{n:g}"
                for n in (statistics.median(counts), counts[0], counts[-1])
            ]
            said = said[:1] if len(set(said)) == 1 else [f"{said[0]} ({said[1]} to {said[2]})"]
            curves = [dict(map(tuple, one["curve"])) for one in seeds]
            after = [
                f"{n}: {statistics.median(curve[n] for curve in curves):.3f}"
                for n in (population * POPULATIONS[name] for population in (1, 2, 4, 6))
            ]
            beginning = "at random" if arm.endswith("random start") else "of all sizes"
            cells = (name, beginning, str(len(seeds)), said[0], ", ".join(after))
            yield f"| {' | '.join(cells)} |"
    yield ""


STARTS_WORDS = """## How LINAS begins

Half of LINAS' first population is of all sizes from the smallest to the largest; the reference
draws all of it at random, and where choices are many these are nearly all of middling size. Both
are compared on ten seeds that neither was chosen on. On CIFAR-10 a member that was never judged is
told by a model (`CifarModel`: trees fitted to the 11,491 that were, and the spread of what they
err), so both rows of CIFAR-10 are of that model as much as of the family. On the first two problems
the beginnings need about as many evaluations, on the third that of all sizes is ahead throughout,
which is why it is the default. `python benchmarks/search.py --starts` measures it.
"""
WORDS = {
    "synthetic": "Synthetic space: 30 choices, two objectives",
    "digits": "Digits: every member of a trained family known",
    "cifar10": "CIFAR-10: a trained family of ResNet-18",
}
HEAD = """# Search

<!-- Written by benchmarks/search.py from benchmarks/results/search. -->

How many evaluations a search needs to reach 99 % of the reference hypervolume, ten seeds each, and
what the optimizer itself takes for an evaluation (time of one core, without the evaluations). The
aim is at most 0.125 of the evaluations of pymoo's NSGA-II, and at most 100 us without a predictor.

pymoo runs with its operators rounded to whole numbers, at three settings: simulated binary
crossover with eta 15 (pymoo's default) or 3 (its advice for whole numbers), and two-point
crossover; the one that needs fewest is what the others are compared with. The reference of the
synthetic space is the union of ten runs of 20,000 evaluations at eta 3. Predictors take
milliseconds an evaluation: they are for members that take longer than that to judge.

LINAS begins with archs of all sizes beside random ones; *random start* is its first population as
in the reference, all drawn at random. The last section compares the two.

The digits are an easy space of 1,296 members, where chance does as well as pymoo; ratios say less
there than on the synthetic one, which is what the aim is about. On CIFAR-10 the reference is what
ten runs of pymoo's NSGA-II of 300 evaluations found together; 99 % of it within these budgets is
more than most searches reach, so the curve says more than the table, and a second table has it at
equal numbers of evaluations. Accuracies there are of 599 images, two points from chance alone, in
steps of a sixth of a point: what is searched is rough, and a predictor sees only part of it.

`python benchmarks/search.py` measures all of it again.
"""


def main() -> None:
    for option, function in {"--page": page, "--starts": measure_starts}.items():
        if option in sys.argv:
            return function()
    wanted = sys.argv[1:]
    for name in [one for one in PROBLEMS if one in wanted] or PROBLEMS:
        measure(name, [arm for arm in ARMS if arm in wanted] or BUDGETS[name])


if __name__ == "__main__":
    main()
