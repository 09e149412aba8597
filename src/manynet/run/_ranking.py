"""How far inherited quality can be trusted: some archs are trained alone and compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from manynet._files import write_json
from manynet.cost import macs
from manynet.family import Family
from manynet.models import load
from manynet.run._family import START, train_alone
from manynet.run._plan import Plan
from manynet.run._work import Work
from manynet.space import Arch

__all__ = ["kendall_tau", "rank_alone"]

FILE = "ranking.json"


def rank_alone(work: Work, family: Family, plan: Plan) -> None:
    """Train some archs alone, from where the family began, and write `ranking.json`."""
    if plan.ranked < 2 or (work.folder / FILE).is_file():
        return
    archs = _spread(family, plan.ranked, work.config.seed)
    pairs = [
        (_inherited(work, family, arch), _alone(work, arch, plan, (number, len(archs))))
        for number, arch in enumerate(archs)
    ]
    cost = macs()
    members = [
        {
            "arch": arch.to_json(),
            "macs": cost.of_arch(family, arch),
            "inherited": inherited,
            "alone": alone,
        }
        for arch, (inherited, alone) in zip(archs, pairs, strict=True)
    ]
    write_json(work.folder / FILE, {"tau": kendall_tau(pairs), "members": members})


def _spread(family: Family, count: int, seed: int) -> list[Arch]:
    """Return the smallest arch, the largest, and random ones at even distances between them."""
    space, cost = family.space, macs()
    rng = np.random.default_rng(seed)
    drawn = {space.canonical(space.sample(rng)) for _ in range(20 * count)}
    ends = [space.canonical(space.smallest), space.canonical(space.largest)]
    found = sorted(drawn - set(ends), key=lambda arch: (cost.of_arch(family, arch), arch))
    low, high = (cost.of_arch(family, arch) for arch in ends)
    chosen = [ends[0]]
    for aim in np.linspace(low, high, count)[1:-1]:
        left = [arch for arch in found if arch not in chosen]
        if left:
            chosen.append(min(left, key=lambda arch: abs(cost.of_arch(family, arch) - aim)))
    return [*chosen, ends[1]]


def _inherited(work: Work, family: Family, arch: Arch) -> float:
    return float(work.metric(work.calibrated(family.extract(arch).eval())))


def _alone(work: Work, arch: Arch, plan: Plan, part: tuple[int, int]) -> float:
    """Return the quality of an arch that was trained by itself; measured once."""
    name = f"{work.metric.name}_alone"
    context = f"seed {work.config.seed}; epochs {plan.ranking_epochs}"
    with work.store() as store:
        known = store.get(arch, name, context=context)
        if known is not None:
            return known
        start = load(work.folder / START, model=work.material.network.form()).to(work.device)
        folder = work.folder / "checkpoints" / f"alone-{arch.key}"
        stage = "train some alone to compare"
        member = train_alone(
            work, start.extract(arch), stage, plan.ranking_epochs, folder, part=part
        )
        quality = float(work.metric(work.calibrated(member)))
        return store.add(arch, {name: quality}, context=context)[name]


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Kendall's tau-b of two rankings, from -1 to 1; None where one of them is all ties.

    Example:
        >>> kendall_tau([(1.0, 10.0), (2.0, 20.0), (3.0, 15.0)])
        0.3333333333333333
    """
    signs = np.array([np.sign(np.subtract(a, b)) for a, b in itertools.combinations(pairs, 2)])
    if len(signs) == 0 or not signs.any(axis=0).all():
        return None
    total = float((signs[:, 0] * signs[:, 1]).sum())
    return total / float(np.sqrt(np.abs(signs).sum(axis=0).prod()))
