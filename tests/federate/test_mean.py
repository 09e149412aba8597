"""The running mean: an update made of updates."""

from __future__ import annotations

import pytest
import torch

from manynet.errors import InputError
from manynet.federate import RunningMean, Update, merge


def updates(count: int) -> list[Update]:
    generator = torch.Generator().manual_seed(0)
    return [
        Update({"w": torch.randn(5, 3, generator=generator)}, n + 1, f"{n:02}")
        for n in range(count)
    ]


@pytest.mark.parametrize("together", [1, 3, 8, 50])
def test_one_after_the_other_is_all_at_once(together: int) -> None:
    sent = updates(11)
    mean = RunningMean(together=together)
    for update in sent:
        mean.add(update)
    at_once = merge({"w": torch.zeros(5, 3)}, sent)["w"]
    assert torch.allclose(mean.update.tensors["w"], at_once, atol=1e-6)
    assert mean.update.weight == sum(update.weight for update in sent)


def test_a_tree_of_means_is_one_mean() -> None:
    sent = updates(9)
    leaves = [RunningMean(client=str(n)) for n in range(3)]
    for number, update in enumerate(sent):
        leaves[number % 3].add(update)
    top = RunningMean()
    for leaf in leaves:
        top.add(leaf.update)
    at_once = merge({"w": torch.zeros(5, 3)}, sent)["w"]
    assert torch.allclose(top.update.tensors["w"], at_once, atol=1e-6)


def test_means_of_several_widths_are_merged() -> None:
    wide, narrow = RunningMean(client="wide"), RunningMean(client="narrow")
    for value in (1.0, 3.0):
        wide.add(Update({"w": torch.full((4,), value)}))
        narrow.add(Update({"w": torch.full((2,), 10 * value)}))
    merged = merge({"w": torch.zeros(4)}, [wide.update, narrow.update])["w"]
    assert merged.tolist() == [11.0, 11.0, 2.0, 2.0]


def test_a_mean_that_was_handed_out_does_not_change() -> None:
    mean = RunningMean(together=1)
    kept = []
    for update in updates(6):
        mean.add(update)
        tensor = mean.update.tensors["w"]
        kept.append((tensor, tensor.clone()))
    assert all(torch.equal(tensor, then) for tensor, then in kept)


def test_one_at_a_time_allocates_two_means_and_no_more() -> None:
    mean, places = RunningMean(together=1), set()
    for update in updates(8):
        mean.add(update)
        assert mean._mean is not None
        places.add(mean._mean["w"].data_ptr())
    assert len(places) == 2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="together=0"):
        RunningMean(together=0)
    mean = RunningMean(together=2)
    with pytest.raises(InputError, match="nothing was added"):
        _ = mean.update
    mean.add(updates(1)[0])
    with pytest.raises(InputError, match="client 'z' has other tensors or shapes"):
        mean.add(Update({"w": torch.zeros(2, 3)}, 1, "z"))
    assert mean.update.weight == 1
