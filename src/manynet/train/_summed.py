"""What a relaxed network costs without a sum of weights: one convolution for each combination.

It is there to be compared with: it computes the same numbers, at the cost and the memory of all
slices of every convolution.

Letters in shapes: `B` batch, `C` and `D` channels, `H` height, `W` width.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet._inputs import tensors_in
from manynet.bindings.axes import axes_of
from manynet.bindings.protocol import Part, part_of
from manynet.bindings.slice import Slice
from manynet.bindings.superpose import Superpose
from manynet.errors import InputError
from manynet.space import Arch
from manynet.train._relax import Relaxed

__all__ = ["SummedOutputs", "step_times", "sum_outputs"]


class SummedOutputs(nn.Module):
    """What is done without a sum of weights: one convolution for each slice, outputs summed.

    Args:
        conv: the largest convolution.
        reads: how it is summed in the relaxed network.
        shares: of each choice.

    Shapes: `(B, C, H, W)` to `(B, D, H, W)`.
    """

    def __init__(self, conv: nn.Conv2d, reads: Superpose, shares: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.conv, self.block = conv, Slice("", reads.dims)
        self.values = dict(zip(reads.choices, reads.values, strict=True))
        self.shares = nn.ParameterDict({str(n): shares[c] for n, c in enumerate(self.values)})

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of the slices' outputs, each times its shares."""
        total = images.new_zeros(())
        axes = {axis for dim in self.block.dims for axis in axes_of(dim)}
        for places in itertools.product(*(range(len(v)) for v in self.values.values())):
            chosen = zip(self.values.items(), places, strict=True)
            size = {name: sizes[place] for (name, sizes), place in chosen}
            part = self.block.at(Arch({}), {a: size[a.name] for a in axes if a.name in size})
            assert isinstance(part, Part)
            weight = part_of(self.conv.weight, part)
            bias = None if self.conv.bias is None else self.conv.bias[: len(weight)]
            less = (self.conv.weight.shape[-1] - weight.shape[-1]) // 2
            padding = [int(side) - less for side in self.conv.padding]
            found = functional.conv2d(images[:, : weight.shape[1]], weight, bias, padding=padding)
            share = torch.stack([self.shares[str(n)][p] for n, p in enumerate(places)]).prod()
            lacks = len(self.conv.weight) - len(weight)
            total = total + share * functional.pad(found, (0, 0, 0, 0, 0, lacks))
        return total


def sum_outputs(relaxed: Relaxed) -> nn.Module:
    """Return the relaxed network with sums of outputs in place of sums of convolutions' weights.

    It holds copies: of the weights, and of the shares as parameters. Biases and norms count as in
    the relaxed network where the shares of each choice sum to one.

    Args:
        relaxed: what to compare with.

    Raises:
        InputError: no plain convolution of two dimensions is summed.
    """
    network = relaxed.family.extract({})
    shares = {name: nn.Parameter(own.detach().clone()) for name, own in relaxed.shares.items()}
    tensors = relaxed.family.state_dict()
    found = 0
    for path, conv in list(network.named_modules()):
        reads = relaxed.family.blueprint.bindings.get(f"{path}.weight")
        if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or not isinstance(reads, Superpose):
            continue
        with torch.no_grad():
            for name, own in conv.named_parameters():
                own.copy_(tensors[f"{path}.{name}"])
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, SummedOutputs(conv, reads, shares))
        found += 1
    if not found:
        raise InputError("no convolution of this family is summed, so there is none to compare")
    return network


def step_times(relaxed: Relaxed, inputs: Tensor, *, repeats: int = 5) -> dict[str, float]:
    """Time a pass forward and backward with summed weights and with summed outputs.

    Args:
        relaxed: the network.
        inputs: one batch.
        repeats: the medians of so many passes are returned; one more comes before them.

    Returns:
        `step ms`, `summed outputs step ms`, and how many `times faster` summed weights are.
    """
    found = []
    for model in (relaxed.family.at({}), sum_outputs(relaxed)):
        seconds = []
        for _ in range(repeats + 1):
            _wait(inputs.device)
            began = time.perf_counter()
            outputs = tensors_in(model(inputs))
            torch.stack([out.square().mean() for out in outputs]).sum().backward()
            _wait(inputs.device)
            seconds.append(time.perf_counter() - began)
        found.append(1000 * statistics.median(seconds[1:]))
    relaxed.family.zero_grad()
    return {
        "step ms": found[0],
        "summed outputs step ms": found[1],
        "times faster": found[1] / found[0],
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
