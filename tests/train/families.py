"""Small families and data that the training tests share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manynet.elastic import elastic
from manynet.family import Family


def mlp_family(seed: int = 0, *, norm: bool = False) -> Family:
    """Return a family of linear networks of two hidden widths, layer norms in between or not."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(6, 16), nn.LayerNorm(16)] if norm else [nn.Linear(6, 16)]
    layers += [nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
    return elastic(nn.Sequential(*layers), (torch.zeros(2, 6),), width=(0.25, 0.5, 1.0))


class Net(nn.Module):
    """A convolution, a batch norm, dropout: all that draws or keeps something in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.conv2(torch.relu(self.norm(self.conv1(images)))))
        return self.head(self.drop(features.mean((2, 3))))  # type: ignore[no-any-return]


def conv_family(seed: int = 0) -> Family:
    """Return a family of convolutional networks with a batch norm and dropout."""
    torch.manual_seed(seed)
    return elastic(Net(), (torch.zeros(2, 1, 6, 6),), width=(0.25, 0.5, 1.0))


def rows(count: int = 40, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return rows of six numbers and labels that can be learned from them."""
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :3].argmax(1)


def images(count: int = 40, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return images of six by six pixels, and labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 1, 6, 6, generator=generator)
    return inputs, inputs.flatten(1)[:, :3].argmax(1)


def copied(family: Family) -> dict[str, Tensor]:
    """Return the shared tensors as they are now."""
    return {name: tensor.detach().clone() for name, tensor in family.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
