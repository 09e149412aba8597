"""The quality of a member, predicted from its arch after some members have been judged.

Letters in shapes: `N` archs, `F` features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manynet.errors import InputError
from manynet.space import Arch, Space

__all__ = ["QualityPredictor", "fit_quality"]

Features = Callable[[Arch], Sequence[float]]
_FEWEST = 8
_HELD_OUT = 5


@dataclass(frozen=True)
class QualityPredictor:
    """Predicts the quality of an arch; `fit_quality` makes it. Call it with an arch.

    Args:
        space: where the archs come from.
        agreement: how it orders archs that it was not fitted to: the share of pairs in the order
            of their qualities, 0.5 for chance.
        samples: how many archs it was fitted to.
    """

    space: Space
    agreement: float
    samples: int
    network: nn.Module = field(repr=False)
    center: float = field(repr=False)
    spread: float = field(repr=False)
    features: Features | None = field(default=None, repr=False)

    def predict(self, archs: Sequence[Arch]) -> NDArray[np.float64]:
        """Return the predicted qualities of some archs, shape `(N,)`."""
        with torch.no_grad():
            found = self.network(_encoded(self.space, archs, self.features)).flatten()
        values: NDArray[np.float64] = found.double().numpy()
        return values * self.spread + self.center

    def __call__(self, arch: Arch) -> float:
        """Return the predicted quality of one arch."""
        return float(self.predict([arch])[0])


def fit_quality(
    space: Space,
    archs: Sequence[Arch],
    qualities: Sequence[float],
    *,
    features: Features | None = None,
    hidden: Sequence[int] = (64, 64, 64),
    steps: int = 300,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> QualityPredictor:
    """Fit a small network to the qualities of some archs, to judge thousands more in a moment.

    It takes a one for the value of each choice among zeros, and what `features` adds.

    Args:
        space: where the archs come from.
        archs: those that were judged.
        qualities: of each.
        features: numbers of an arch to take in besides, such as its mean bits.
        hidden: the widths of the layers between.
        steps: of AdamW, on all archs at once.
        weight_decay: of AdamW.
        seed: of the first weights, and of which fifth of the archs is held out to measure
            `agreement` on, before all of them are fitted.

    Raises:
        InputError: there are fewer than 8 archs, or not a quality for each.

    Reference: Cai et al. 2019, arXiv 1908.09791; Xu et al. 2023, arXiv 2308.07650.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space((Choice("depth", (1, 2, 3, 4)), Choice("width", (8, 16, 24))))
        >>> archs = list(space.enumerate())
        >>> made = fit_quality(space, archs, [arch["depth"] + arch["width"] / 8 for arch in archs])
        >>> max(archs, key=made) == space.largest
        True
    """
    if len(archs) < _FEWEST or len(archs) != len(qualities):
        raise InputError(
            f"fit_quality got {len(archs)} archs and {len(qualities)} qualities; judge at least "
            f"{_FEWEST} archs, and give a quality for each"
        )
    values = np.asarray(qualities, dtype=np.float64)
    center, spread = float(values.mean()), max(float(values.std()), 1e-12)
    x = _encoded(space, archs, features)
    y = torch.from_numpy((values - center) / spread).float()[:, None]
    out = torch.from_numpy(np.random.default_rng(seed).permutation(len(archs)) % _HELD_OUT == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part = _fitted(x[~out], y[~out], hidden, steps, weight_decay)
        agreement = _agreement(part(x[out]).detach().flatten(), y[out].flatten())
        network = _fitted(x, y, hidden, steps, weight_decay)
    return QualityPredictor(space, agreement, len(archs), network, center, spread, features)


def _encoded(space: Space, archs: Sequence[Arch], features: Features | None) -> Tensor:
    """Return the archs as rows, `(N, F)`."""
    rows = [
        [
            *(float(arch[c.name] == value) for c in space.choices for value in c.values),
            *(features(arch) if features is not None else ()),
        ]
        for arch in archs
    ]
    return torch.tensor(rows, dtype=torch.float32)


def _fitted(
    x: Tensor, y: Tensor, hidden: Sequence[int], steps: int, weight_decay: float
) -> nn.Module:
    sizes = (x.shape[1], *hidden)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=weight_decay)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (network(x) - y).square().mean().backward()
            optimizer.step()
    return network.requires_grad_(False).eval()


def _agreement(found: Tensor, wanted: Tensor) -> float:
    """Return the share of pairs that are in the same order; pairs of equals do not count."""
    a = (found[:, None] - found[None]).sign()
    b = (wanted[:, None] - wanted[None]).sign()
    pairs = int((b != 0).sum())
    return float(((a * b) > 0).sum()) / pairs if pairs else 0.5
