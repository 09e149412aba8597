"""The latency predictor of a run: fitted once on this machine, then read from its file."""

from __future__ import annotations

from manynet._files import write_json
from manynet.cost import LatencyPredictor, fit_latency
from manynet.family import Family
from manynet.run._costs import wants_latency
from manynet.run._work import Work

__all__ = ["predictor"]

FILE = "latency-predictor.json"
SHOWN = "latency.json"
_LEAST = 8
_SECONDS = 60.0


def predictor(work: Work, family: Family) -> LatencyPredictor | None:
    """Return what predicts a member's latency, and write `latency.json` for the page.

    None where it was not asked for: no samples in the config, or a family too small for a fit.
    """
    samples = work.config.search.latency_samples
    enough = min(samples, family.space.count) >= _LEAST
    if not enough and not wants_latency(work.config):
        return None
    path = work.folder / FILE
    if path.is_file():
        return LatencyPredictor.load(path, family)
    found = _fitted(work, family, max(samples, _LEAST))
    _show(work, found)
    found.save(path)
    return found


def _fitted(work: Work, family: Family, samples: int) -> LatencyPredictor:
    step = work.progress("learn this machine's latency")

    def progress(share: float) -> None:
        step(round(100 * share), 100, f"{samples} members measured")

    return fit_latency(
        family,
        work.material.example_inputs(),
        samples=samples,
        device=work.device,
        seed=work.config.seed,
        time_limit_s=_SECONDS,
        progress=progress,
    )


def _show(work: Work, found: LatencyPredictor) -> None:
    write_json(
        work.folder / SHOWN,
        {
            "predicted": [guess for _, _, guess in found.measured_ms],
            "measured": [ms for _, ms, _ in found.measured_ms],
            "mape": found.mape / 100,
            "tau": found.tau,
            "device": str(work.device),
            "threads": found.conditions["threads"],
        },
    )
