"""A family of a small network with batch-norm, its front, and a client of a server of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import manynet as mn
from manynet.deploy import calibrate
from manynet.run import Trained
from manynet.search import Front, Record

DATA = 2.0 + 3.0 * torch.randn(128, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def trained_toy() -> Trained:
    """Return a family with four members on its front."""
    family = mn.elastic(network(), (torch.zeros(2, 2, 6, 6),), width=(0.25, 0.5, 0.75, 1.0)).eval()
    records = []
    for number, width in enumerate((4, 8, 12, 16)):
        arch = family.space.arch(dict.fromkeys(("0.width", "3.width"), width))
        records.append(Record(arch, 0.8 + number / 20, {"macs": 1e3 * width}))
    front = Front.of(records, metric="accuracy")
    return Trained(family, front, (torch.zeros(2, 2, 6, 6),), lambda m: calibrate(m, DATA))


def expected(trained: Trained, name: str, samples: Tensor) -> Tensor:
    """Return what a member taken out of the family, with statistics of its own, answers."""
    record = next(record for record in trained.front if record.arch.key == name)
    with torch.no_grad():
        return trained.calibrated(trained.family.extract(record.arch).eval())(samples)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Ask = Callable[..., Reply]


def asking(url: str, headers: dict[str, str] | None = None) -> Ask:
    def call(path: str, body: Any = None, kind: str = "application/json", **query: Any) -> Reply:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        text = "&".join(f"{name}={value}" for name, value in query.items())
        request = urllib.request.Request(
            f"{url}{path}?{text}", data, {"Content-Type": kind, **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Reply(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, dict(error.headers), error.read())

    return call
