"""A family made by hand, a convolutional one with data, and a plain function over a space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manynet.elastic import elastic
from manynet.family import Family
from manynet.space import Arch, Choice, Space

INPUTS = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.mean((2, 3)).argmax(1)


class Supernet:
    """Two layers of elastic width with batch norm; members are copies of leading blocks."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.space = Space((Choice("a", (2, 4, 6, 8)), Choice("b", (2, 4, 6, 8))))
        self.shared = _network(8, 8)
        self.example_inputs = (torch.zeros(1, 5),)
        self.built: list[Arch] = []
        self._members: dict[Arch, nn.Module] = {}

    def at(self, arch: Arch) -> nn.Module:
        self.built.append(arch)
        if arch not in self._members:
            member = _network(int(arch["a"]), int(arch["b"]))
            with torch.no_grad():
                for name, tensor in member.state_dict().items():
                    whole = self.shared.state_dict()[name]
                    tensor.copy_(whole[tuple(slice(size) for size in tensor.shape)])
            self._members[arch] = member
        return self._members[arch].train(self.shared.training)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.shared.state_dict())


def _network(a: int, b: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, a), nn.BatchNorm1d(a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, 3)
    )


def data(samples: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 5, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def conv_family() -> Family:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    return elastic(model, (INPUTS[:2],), width=(0.25, 0.5, 0.75, 1.0))


def plain_space(genes: int = 8) -> Space:
    return Space(tuple(Choice(f"g{gene}", (0, 1, 2, 3)) for gene in range(genes)))


def plain(arch: Arch) -> dict[str, float]:
    """Quality with diminishing returns, cost a weighted sum."""
    levels = [float(value) for value in arch.values()]
    gain = sum((gene + 1) * level**0.5 for gene, level in enumerate(levels))
    cost = sum((7 * gene % 5 + 1) * level for gene, level in enumerate(levels))
    return {"score": gain, "cost": cost}
