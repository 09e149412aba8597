"""What goes through a network on calibration data: inputs of its layers, outputs of its blocks.

Letters of shapes: `L` layers, `I` inputs, `D` width, `V` vocabulary or classes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import batches, call, device_of, evaluating, moved, tensors_in
from manynet.errors import InputError
from manynet.fit._sites import blocks_of

__all__ = ["drift", "input_grams", "runs"]


def input_grams(
    model: nn.Module, data: Any, names: Sequence[str], *, batch_size: int = 8
) -> dict[str, Tensor]:
    """Return `X.T @ X` of the rows that go into each linear layer on calibration data.

    Layers that are given the very same tensor, as queries, keys and values are, share one.

    Args:
        model: the network; it is run in evaluation mode.
        data: tensors, a data set or batches; targets are not looked at.
        names: of the layers' weights.
        batch_size: samples a pass where the data is not in batches.

    Raises:
        InputError: the data holds no batch, or a layer is not run.

    Shapes: each `(I, I)`.
    """
    watch = _Inputs()
    with contextlib.ExitStack() as stack:
        for name in names:
            layer = model.get_submodule(name.removesuffix(".weight"))
            handle = layer.register_forward_pre_hook(_Named(watch, name))
            stack.callback(handle.remove)
        for _ in _passes(model, data, batch_size):
            watch.last = None
    lacking = [name for name in names if name not in watch.leaders]
    if lacking:
        raise InputError(f"{lacking[0]} takes no part in a forward pass on the calibration data")
    return {name: watch.grams[watch.leaders[name]] for name in names}


class _Inputs:
    """Sums up Gram matrices of inputs."""

    def __init__(self) -> None:
        self.grams: dict[str, Tensor] = {}
        self.leaders: dict[str, str] = {}
        self.last: tuple[Tensor, str] | None = None

    def see(self, name: str, value: Tensor) -> None:
        same = self.last is not None and self.last[0] is value
        leader = self.leaders.setdefault(name, self.last[1] if same and self.last else name)
        if leader != name and same:
            return
        rows = value.detach().flatten(0, -2).float()
        gram = rows.T @ rows
        total = self.grams.get(leader)
        self.grams[leader] = gram.double() if total is None else total.add_(gram)
        self.last = (value, leader)


class _Named:
    def __init__(self, watch: _Inputs, name: str) -> None:
        self.watch, self.name = watch, name

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.watch.see(self.name, args[0])


@torch.no_grad()
def _passes(model: nn.Module, data: Any, batch_size: int) -> Iterator[Any]:
    """Run the network on every batch and yield what it returns."""
    count = 0
    with evaluating(model):
        for inputs, _ in batches(data, batch_size=batch_size):
            count += 1
            yield call(model, moved(inputs, device_of(model)))
    if not count:
        raise InputError("the calibration data holds no batch; give at least one")


def drift(model: nn.Module, data: Any, *, batch_size: int = 8) -> list[float]:
    """Return how far the guess of the network moves from each block to the next.

    The logit lens: what a block returns, averaged over all tokens of the calibration data, goes
    through all that comes behind the last block, such as the final norm and the output
    projection. The softmax of that is the block's guess, and the drift the divergence (KL) of the
    next block's guess from it.

    Args:
        model: a network with a list of blocks whose width stays the same.
        data: tensors, a data set or batches; targets are not looked at.
        batch_size: samples a pass where the data is not in batches.

    Returns:
        one number for each pair of neighbors, `L - 1` in all.

    Raises:
        InputError: the blocks' outputs differ in width, or the rest of the network does not take
            one token.

    Reference: Zhussip et al. 2026, arXiv 2508.04581, where final norm and direction are open.
    """
    blocks = list(model.get_submodule(blocks_of(model)).children())
    sums: dict[int, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for number, block in enumerate(blocks):
            stack.callback(block.register_forward_hook(_adder(sums, number)).remove)
        for _ in _passes(model, data, batch_size):
            pass
    if len(sums) < len(blocks) or len({len(total) for total in sums.values()}) > 1:
        widths = sorted({len(total) for total in sums.values()})
        raise InputError(f"the {len(blocks)} blocks return widths {widths}; they should return one")
    means = torch.stack([sums[n][:-1] / sums[n][-1] for n in range(len(blocks))])
    guesses = _finished(model, blocks[-1], means, data).double().log_softmax(-1)
    return [float((one.exp() * (one - other)).sum()) for one, other in itertools.pairwise(guesses)]


def _adder(sums: dict[int, Tensor], number: int) -> Callable[..., None]:
    def add(module: nn.Module, args: Any, outputs: Any) -> None:
        rows = tensors_in(outputs)[0].detach().flatten(0, -2).double()
        counted = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
        sums[number] = sums[number] + counted if number in sums else counted

    return add


def _finished(model: nn.Module, last: nn.Module, means: Tensor, data: Any) -> Tensor:
    """Return what the network makes of `means`, put in the place of its last block's output."""

    def replace(module: nn.Module, args: Any, outputs: Any) -> Any:
        found = means[:, None].to(tensors_in(outputs)[0].dtype)
        return (found, *outputs[1:]) if isinstance(outputs, tuple) else found

    inputs, _ = next(batches(data, batch_size=1))
    handle = last.register_forward_hook(replace)
    try:
        with torch.no_grad(), evaluating(model):
            found = tensors_in(call(model, moved(inputs, device_of(model))))[0]
    except RuntimeError as error:
        raise InputError(
            f"{type(model).__name__} does not take one token behind its last block ({error}); "
            "give the groups of layers yourself, as lists of block numbers"
        ) from error
    finally:
        handle.remove()
    return found.reshape(len(means), -1)


def runs(drifts: Sequence[float], groups: int, *, smallest: int = 2) -> list[range]:
    """Return runs of consecutive layers, cut where the drift is largest.

    Args:
        drifts: between each layer and the next.
        groups: how many runs; fewer come back where no cut is left.
        smallest: layers that each run has at least.

    Raises:
        InputError: a number is below 1.

    Example:
        >>> runs([0.1, 3.0, 0.2, 0.9, 0.1], 2)
        [range(0, 2), range(2, 6)]
    """
    if min(groups, smallest) < 1:
        raise InputError(f"{groups} groups of at least {smallest} layers; give 1 or more of each")
    cuts = [0, len(drifts) + 1]
    for place in sorted(range(1, len(drifts) + 1), key=lambda n: -drifts[n - 1]):
        if len(cuts) - 1 < groups and all(abs(place - cut) >= smallest for cut in cuts):
            cuts.append(place)
    cuts.sort()
    return [range(start, end) for start, end in itertools.pairwise(cuts)]
