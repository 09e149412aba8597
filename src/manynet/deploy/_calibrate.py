"""Batch-norm statistics of one member, recalibrated on data."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manynet._inputs import Batch, call, device_of, evaluating, moved, shapes
from manynet._inputs import batches as batches_of
from manynet.errors import InputError

__all__ = ["calibrate"]


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
    so do the statistics. A network without batch-norm that tracks statistics is left as it is, and
    the data is not touched. (`InstanceNorm` statistics are not recalibrated.)

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
        if not _run(member, stream, where):
            raise InputError("there is no batch in the data to calibrate with; give at least one")
    _check_finite(member, averages)
    for average in averages:
        average.store()
    return member


class Average:
    """Gathers the statistics of one layer: a hook before its calls that averages what comes in.

    In train mode PyTorch's CPU kernel takes five times as long as in eval mode. So the layer stays
    in eval mode, and normalizes with the batch's own statistics because the hook puts them where
    it looks for the running ones.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.count = 0
        self.mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.variance = torch.zeros_like(self.mean)

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Add a batch, and let the layer normalize with its statistics."""
        values = args[0]
        size = values.numel() // values.shape[1]
        if size < 2:
            raise ValueError("one value a channel has no variance; give batches of more samples")
        mean, variance = _moments(values)
        self.layer.running_mean.copy_(mean)
        self.layer.running_var.copy_(variance)
        self.count += 1
        self.mean += mean
        self.variance += variance * (size / (size - 1))

    def store(self) -> None:
        """Give the layer the averages, in tensors of its own."""
        if self.count:
            like = self.layer.running_mean
            self.layer.running_mean = (self.mean / self.count).to(like.dtype)
            self.layer.running_var = (self.variance / self.count).to(like.dtype)
        if self.layer.num_batches_tracked is not None:
            count = torch.full_like(self.layer.num_batches_tracked, self.count)
            self.layer.num_batches_tracked = count


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


def _run(member: nn.Module, stream: Iterator[Batch], device: torch.device) -> int:
    """Run all batches through the network and return how many there were."""
    count = 0
    with torch.no_grad():
        for inputs, _ in stream:
            try:
                call(member, moved(inputs, device))
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise InputError(
                    f"calibration batch {count} of shape {shapes(inputs)} does not fit "
                    f"{type(member).__name__} on {device}: {str(error).splitlines()[0]}"
                ) from error
            count += 1
    return count


@contextlib.contextmanager
def _hooked(averages: list[Average]) -> Iterator[None]:
    """Let the averages listen for a while; then the layers have their old statistics again."""
    before = [(a.layer, a.layer.running_mean, a.layer.running_var) for a in averages]
    for layer, mean, variance in before:  # nobody else's tensors change
        layer.running_mean, layer.running_var = torch.empty_like(mean), torch.empty_like(variance)
    handles = [average.layer.register_forward_pre_hook(average) for average in averages]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, mean, variance in before:
            layer.running_mean, layer.running_var = mean, variance


def _check_finite(member: nn.Module, averages: list[Average]) -> None:
    """Refuse statistics that are not finite, naming the first layer that has them."""
    names = {module: path for path, module in member.named_modules()}
    for average in averages:
        if not torch.isfinite(average.mean.sum() + average.variance.sum()):
            raise InputError(
                f"the statistics of {names[average.layer] or 'the network'} are not finite after "
                "calibration: the data or the weights hold NaN or infinite values; "
                "nothing was changed"
            )
