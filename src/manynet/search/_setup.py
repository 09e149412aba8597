"""From the arguments of a search to its judge, with every mistake in them named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from torch import nn

from manynet.errors import InputError, did_you_mean
from manynet.search._judge import (
    CostLike,
    FamilyLike,
    Judge,
    Limit,
    Quality,
    fingerprint,
    settings_of,
)
from manynet.search.front import RESERVED
from manynet.search.metrics import Metric
from manynet.search.store import Store
from manynet.space import Arch, Space

__all__ = ["Bounds", "make_judge"]

Bounds: TypeAlias = float | tuple[float | None, float | None]


def make_judge(
    family: FamilyLike | Space,
    quality: Quality | str,
    costs: Sequence[CostLike | str],
    *,
    constraints: Mapping[str, Bounds],
    evaluate: Callable[[Arch], Mapping[str, float]] | None,
    calibrate: Callable[[nn.Module], object] | None,
    store: Store | None,
    context: str,
) -> Judge:
    """Return the judge of a search; for the arguments see `search`.

    Raises:
        InputError: two things of one name, a name that nothing measures, an unknown constraint.
    """
    quality = Metric(quality) if isinstance(quality, str) else quality
    judge = Judge(
        family if isinstance(family, Space) else family.space,
        quality,
        _named(quality, costs),
        family=None if isinstance(family, Space) else family,
        evaluate=evaluate,
        calibrate=calibrate,
        store=store,
    )
    if judge.asked and evaluate is None:
        raise InputError(
            f"nothing measures {', '.join(judge.asked)}: hand in evaluate=, a function that "
            "returns it, or a metric or cost that can be called"
        )
    contexts = {} if store is None else _contexts(judge, context)
    return replace(judge, limits=_limits(constraints, judge), contexts=contexts)


def _named(quality: Quality, costs: Sequence[CostLike | str]) -> dict[str, CostLike | None]:
    named: dict[str, CostLike | None] = {}
    for cost in costs:
        name = cost if isinstance(cost, str) else cost.name
        if name in named or name == quality.name:
            raise InputError(f"two of quality and costs are called {name}; give each its own name")
        if name in RESERVED:
            raise InputError(f"a cost cannot be called {name}; give it another name")
        named[name] = None if isinstance(cost, str) else cost
    return named


def _limits(constraints: Mapping[str, Bounds], judge: Judge) -> dict[str, Limit]:
    names = (judge.quality.name, *judge.costs)
    limits = {}
    for name, bounds in constraints.items():
        if name not in names:
            raise InputError(f"the constraint {name} is no cost{did_you_mean(name, names)}")
        more_is_better = name == judge.quality.name and judge.quality.higher_is_better
        limits[name] = _limit(name, bounds, more_is_better)
    return limits


def _limit(name: str, bounds: Bounds, more_is_better: bool) -> Limit:
    if isinstance(bounds, (tuple, list)) and len(bounds) == 2:
        least, most = bounds
    else:
        least, most = (bounds, None) if more_is_better else (None, bounds)
    try:
        limit = Limit(
            -math.inf if least is None else float(least), math.inf if most is None else float(most)
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the constraint {name}={bounds!r} must be a number or (least, most)"
        ) from error
    if not limit.least <= limit.most:
        raise InputError(f"the constraint {name}={bounds!r} leaves nothing: least is above most")
    return limit


def _contexts(judge: Judge, context: str) -> dict[str, str]:
    """Say for each name what its values depend on besides the arch."""
    skeleton = weights = ""
    if judge.family is not None:
        skeleton = f"skeleton {fingerprint(judge.family, weights=False)}"
        weights = f"weights {fingerprint(judge.family, weights=True)}"
    data = str(getattr(judge.quality, "fingerprint", ""))
    calibrated = "" if judge.calibrate is None else "calibrated"
    contexts = {name: _joined(skeleton, settings_of(cost)) for name, cost in judge.costs.items()}
    contexts[judge.quality.name] = _joined(weights, data and f"data {data}", calibrated, context)
    contexts.update((name, _joined(weights, context)) for name in judge.asked)
    return contexts


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
