"""What a server counts, in the format of Prometheus; imported where the server starts."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from manynet.serve._engine import Answer
from manynet.serve._policy import Candidate

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server, in a registry of their own; a `Watcher` of its engine."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "manynet_requests", "Requests to predict.", ["status"], registry=own
        )
        self.seconds = Histogram(
            "manynet_request_seconds",
            "From arrival to answer.",
            buckets=_SECONDS,
            registry=own,
        )
        self.in_time = Counter(
            "manynet_in_time", "Answers within their target or not.", ["in_time"], registry=own
        )
        self.members = Counter(
            "manynet_member_samples", "Samples answered by a member.", ["member"], registry=own
        )
        self.compute = Histogram(
            "manynet_compute_seconds",
            "Time of a pass.",
            ["member"],
            buckets=_SECONDS,
            registry=own,
        )
        self.batches = Histogram(
            "manynet_batch_samples", "Samples of a pass.", buckets=_SAMPLES, registry=own
        )
        self.queue = Gauge("manynet_queue_samples", "Samples that wait.", registry=own)

    def passed(self, member: Candidate, samples: int, compute_ms: float) -> None:
        """Count a pass."""
        self.batches.observe(samples)
        self.members.labels(member.name).inc(samples)
        self.compute.labels(member.name).observe(compute_ms / 1e3)

    def queued(self, samples: int) -> None:
        """Note the length of the queue."""
        self.queue.set(samples)

    def answered(self, answer: Answer, seconds: float) -> None:
        """Count an answer."""
        self.seconds.observe(seconds)
        self.in_time.labels("yes" if answer.in_time else "no").inc()

    def text(self) -> bytes:
        """Return all of it as a scrape reads it."""
        return generate_latest(self.registry)
