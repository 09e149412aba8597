"""Resolutions side by side: what flows where, and that blocks between them may die."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import manynet as mn
from manynet.errors import InputError
from manynet.models import parallel_cnn
from manynet.models.atomic import AtomicBlock
from manynet.models.parallel import Exchange
from manynet.systems.supertickets import search_costs, ticket_family

X = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))
SMALL = {"widths": (4, 6, 8), "resolutions": (1, 2, 3, 3), "kernels": (3, 5), "stride": 1}


def test_an_exchange_joins_neighbors_and_opens_a_coarser_resolution() -> None:
    torch.manual_seed(0)
    exchange = Exchange((4, 6, 8), 2, 3, kernels=(3,)).eval()
    assert set(exchange.blocks) == {"0_0", "1_0", "0_1", "1_1", "1_2"}
    images = [torch.randn(2, 4, 7, 7), torch.randn(2, 6, 4, 4)]  # 7 is halved to 4
    found = exchange(images)
    assert [tuple(one.shape) for one in found] == [(2, 4, 7, 7), (2, 6, 4, 4), (2, 8, 2, 2)]
    other = exchange([images[0], images[1] + 1.0])
    assert all(not torch.equal(a, b) for a, b in zip(found, other, strict=True))
    same = exchange([images[0] + 1.0, images[1]])
    assert torch.equal(found[2], same[2])  # the finest is no neighbor of the coarsest


def test_all_its_blocks_are_searched_and_may_lose_everything() -> None:
    torch.manual_seed(0)
    network = parallel_cnn(4, tokens=4, **SMALL).eval()  # type: ignore[arg-type]
    blocks = [m for m in network.modules() if isinstance(m, AtomicBlock)]
    assert len(blocks) == (1 + 2 + 5 + 7) + (1 + 2 + 3 + 3)
    family = ticket_family(network, X).eval()
    assert len(family.space.choices) == 3 * len(blocks)
    assert torch.allclose(family.at(family.space.largest)(X), network(X), atol=1e-6)
    for arch in (family.space.largest, family.space.smallest):
        assert torch.allclose(family.extract(arch)(X), family.at(arch)(X), atol=1e-6)
    scales, total = search_costs(family)
    assert sum(one.of(one.channels) for one in scales) < total
    mn.cut(family, {name: () for name in family.space.names if name.startswith("exchanges.3.")})
    assert family.extract({})(X).shape == (2, 4)
    assert mn.macs()(family.extract({}), X) < total


@pytest.mark.parametrize(
    ("resolutions", "words"),
    [((1, 3), "or one more"), ((3,), "or one more"), ((2, 1), "or one more"), ((), "or one more"),
     ((1, 2, 3, 4), "4 resolutions and 3 widths")],
)  # fmt: skip
def test_resolutions_that_do_not_rise_are_refused(resolutions: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parallel_cnn(widths=(4, 6, 8), resolutions=resolutions)


@pytest.mark.parametrize(
    "wrong", [{"kernels": (2,)}, {"kernels": ()}, {"depth": 0}, {"tokens": -1}]
)
def test_blocks_that_none_can_have_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="parallel_cnn needs"):
        parallel_cnn(widths=(4, 6), resolutions=(1, 2), **wrong)
