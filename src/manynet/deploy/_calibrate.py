"""Batch-norm statistics of one member, recalibrated on data."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manynet._inputs import Batch, Inputs, Named, call, device_of, evaluating, moved, shapes
from manynet._inputs import batches as batches_of
from manynet.errors import InputError

__all__ = ["calibrate"]


Layout = Callable[[Inputs | Named], Inputs | Named]
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)


def calibrate(
    member: nn.Module,
    data: Any,
    *,
    batches: int = 8,
    batch_size: int = 64,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Set a network's batch-norm statistics to the averages over some batches, in place.

    The statistics of a family are those of whatever was trained last; a member is right only with
    its own. Each layer's running mean and variance become the plain average of the batches' (each
    batch counts the same), as if it had trained with `momentum=None`. The network gets tensors of
    its own for them: another network that shared the old ones keeps the old ones. No weight
    changes, nothing is copied, the mode and the momentum of every layer stay; if the data is bad,
    so do the statistics. On the CPU images run with the channels of a pixel side by side
    (`torch.channels_last`) where the network takes them so, which is quicker. A network without
    batch-norm that tracks statistics is left as it is, and the data is not touched. (`InstanceNorm`
    statistics are not recalibrated.)

    Args:
        member: the network.
        data: inputs as tensors, (inputs, targets), a data set or an iterable of batches; targets
            are ignored.
        batches: how many batches to read at most.
        batch_size: samples a batch where the data does not come in batches.
        device: where the batches go; the network's own by default, and it must be the network's.

    Returns:
        The same network.

    Raises:
        InputError: there is no data, it does not fit, it is not finite, or a batch has one value
            a channel only.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(1))
        >>> _ = calibrate(net, torch.tensor([[1.0], [3.0]]))
        >>> net[0].running_mean, net[0].running_var
        (tensor([2.]), tensor([2.]))
    """
    layers = [module for module in member.modules() if _tracks(module)]
    if not layers:
        return member
    if batches < 1:
        raise InputError(f"calibrate(batches={batches}) should read at least one batch")
    where = device_of(member) if device is None else torch.device(device)
    stream = itertools.islice(batches_of(data, batch_size=batch_size), batches)
    averages = [Average(layer) for layer in layers]
    with evaluating(member), _hooked(averages):
        if not _run(member, averages, stream, where):
            raise InputError("there is no batch in the data to calibrate with; give at least one")
    found = [average.average() if average.calls else None for average in averages]
    _check_finite(member, averages, found)
    for average, values in zip(averages, found, strict=True):
        average.store(values)
    return member


class Average:
    """Gathers the statistics of one layer: a hook before its calls, each of which counts the same.

    Where the channels of a pixel lie side by side, PyTorch's kernel for train mode gathers them as
    it normalizes. In the usual layout that kernel takes five to twenty times as long as the one
    for eval mode. There the layer stays in eval mode, and normalizes with the batch's own
    statistics because the hook puts them where it looks for the running ones.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.calls: list[tuple[Tensor, Tensor]] = []  # mean and variance
        self.spare: list[Tensor] = []  # zeros, of which many at once cost as much as one
        self.trains = not isinstance(layer, nn.SyncBatchNorm)  # would wait for other processes

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Let the layer normalize with a batch's statistics, and keep them."""
        values = args[0]
        size = values.numel() // values.shape[1]
        if size < 2:
            raise ValueError("one value a channel has no variance; give batches of more samples")
        buffers = self.layer._buffers  # setting an attribute takes as long as a call of a small map
        like = buffers["running_mean"]
        native = self.trains and _side_by_side(values)
        if native:  # the call will fill them in
            self.spare = self.spare or list(like.new_zeros(16, len(like)))
            mean, variance = self.spare.pop(), self.spare.pop()
            buffers["running_mean"], buffers["running_var"] = mean, variance
        else:
            mean, variance = _moments(values)
            buffers["running_mean"], buffers["running_var"] = mean.to(like), variance.to(like)
            variance = variance * (size / (size - 1))
        if self.layer.training is not native:
            self.layer.training = native
        self.calls.append((mean, variance))

    def average(self) -> Tensor:
        """Return the averages of mean and variance over the calls, in double precision."""
        each = torch.stack([value for call in self.calls for value in call])
        return each.view(-1, 2, *each.shape[1:]).mean(0, dtype=torch.float64)

    def store(self, found: Tensor | None) -> None:
        """Give the layer the averages, in tensors of its own."""
        if found is not None:
            mean, variance = found.to(self.layer.running_mean.dtype)
            self.layer.running_mean, self.layer.running_var = mean.clone(), variance.clone()
        if self.layer.num_batches_tracked is not None:
            count = torch.full_like(self.layer.num_batches_tracked, len(self.calls))
            self.layer.num_batches_tracked = count


def _side_by_side(values: Tensor) -> bool:
    """Return whether the channels of each pixel of a map lie side by side."""
    return (
        values.device.type == "cpu"
        and values.dim() == 4
        and not values.is_contiguous()
        and values.is_contiguous(memory_format=torch.channels_last)
    )


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel.

    Sums of squares are quick, and exact enough unless the mean is many deviations from zero.
    """
    if values.device.type != "cpu" or values.dim() < 3 or values.dtype != torch.float32:
        wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        dims = [0, *range(2, values.dim())]
        of_wide = torch.var_mean(wide, dims, correction=0)
        return of_wide[1], of_wide[0]
    size = values.numel() // values.shape[1]
    sums, squares = _sums(values.numpy())
    mean = sums / size
    variance = squares / size - mean * mean
    far = np.flatnonzero(mean * mean > _FAR * variance)
    if len(far):
        centered = (
            values.flatten(2)[:, torch.from_numpy(far)].double()
            - torch.from_numpy(mean[far])[:, None]
        )
        variance[far] = centered.square().mean((0, 2)).numpy()
    return torch.from_numpy(mean), torch.from_numpy(variance)


def _sums(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums and the sums of squares of each channel.

    NumPy has a fifth of the overhead of a call of PyTorch's, and `einsum` needs no copy of the
    squares. What it adds up in single precision is one map, or one pixel over the batch.
    """
    samples, channels = values.shape[:2]
    maps = values.reshape(samples, channels, -1)
    if maps.shape[2] >= _SMALL:
        sums, squares = np.einsum("bcx->cb", maps), np.einsum("bcx,bcx->cb", maps, maps)
    else:
        flat = values.reshape(samples, -1)
        sums = np.einsum("bk->k", flat).reshape(channels, -1)
        squares = np.einsum("bk,bk->k", flat, flat).reshape(channels, -1)
    return sums.sum(1, dtype=np.float64), squares.sum(1, dtype=np.float64)


_SMALL = 64  # numbers in a map, below which a sum a map takes longer than a sum over the batch
_FAR = 32.0  # squared deviations from zero, from where on squares lose too many digits


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _run(
    member: nn.Module, averages: list[Average], stream: Iterator[Batch], device: torch.device
) -> int:
    """Run all batches through the network and return how many there were."""
    count = 0
    layouts: list[Layout] = [_channels_last, _as_given] if device.type == "cpu" else [_as_given]
    with torch.no_grad():
        for inputs, _ in stream:
            try:
                _gather(member, averages, moved(inputs, device), layouts)
            except _REFUSALS as error:
                raise InputError(
                    f"calibration batch {count} of shape {shapes(inputs)} does not fit "
                    f"{type(member).__name__} on {device}: {str(error).splitlines()[0]}"
                ) from error
            count += 1
    return count


def _gather(
    member: nn.Module, averages: list[Average], inputs: Inputs | Named, layouts: list[Layout]
) -> None:
    """Run a batch in the first layout that the network takes, and forget those that it refuses.

    Channels last is quicker for convolutions and for the statistics. A network that calls `view`
    where it would have to copy refuses it, and so does one that the batch does not fit; as given,
    only the second one is left.
    """
    before = [len(average.calls) for average in averages]
    while True:
        try:
            call(member, layouts[0](inputs))
            return
        except _REFUSALS:
            if len(layouts) == 1:
                raise
            del layouts[0]
        for average, count in zip(averages, before, strict=True):
            del average.calls[count:]


def _as_given(inputs: Inputs | Named) -> Inputs | Named:
    return inputs


def _channels_last(inputs: Inputs | Named) -> Inputs | Named:
    """Return the inputs with the channels of each pixel side by side, also where there is one."""

    def turned(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() != 4:
            return value
        return torch.empty_like(value, memory_format=torch.channels_last).copy_(value)

    if isinstance(inputs, Mapping):
        return {name: turned(value) for name, value in inputs.items()}
    return tuple(turned(value) for value in inputs)


@contextlib.contextmanager
def _hooked(averages: list[Average]) -> Iterator[None]:
    """Let the averages listen for a while; then the layers have their old statistics again."""
    names = ("running_mean", "running_var", "num_batches_tracked", "momentum")
    before = [(a.layer, [getattr(a.layer, name) for name in names]) for a in averages]
    for average in averages:
        average.layer.num_batches_tracked = None  # nobody else's tensors change
        average.layer.momentum = 1.0  # a call's statistics replace those of the call before
    handles = [average.layer.register_forward_pre_hook(average) for average in averages]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, values in before:
            for name, value in zip(names, values, strict=True):
                setattr(layer, name, value)


def _check_finite(member: nn.Module, averages: list[Average], found: list[Tensor | None]) -> None:
    """Refuse statistics that are not finite, naming the first layer that has them."""
    for average, values in zip(averages, found, strict=True):
        if values is not None and not bool(values.isfinite().all()):
            names = {module: path for path, module in member.named_modules()}
            raise InputError(
                f"the statistics of {names[average.layer] or 'the network'} are not finite after "
                "calibration: the data or the weights hold NaN or infinite values; "
                "nothing was changed"
            )
