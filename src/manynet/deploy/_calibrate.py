"""Batch-norm statistics of one member, recalibrated on data."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manynet._inputs import Batch, as_inputs, device_of, moved, shapes
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
    with _averaging(member, layers):
        if not _run(member, stream, where):
            raise InputError("there is no batch in the data to calibrate with; give at least one")
        _check_finite(member)
    return member


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _run(member: nn.Module, stream: Iterator[Batch], device: torch.device) -> int:
    """Run all batches through the network and return how many there were."""
    count = 0
    with torch.no_grad():
        for inputs, _ in stream:
            try:
                member(*moved(as_inputs(inputs), device))
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise InputError(
                    f"calibration batch {count} of shape {shapes(inputs)} does not fit "
                    f"{type(member).__name__} on {device}: {str(error).splitlines()[0]}"
                ) from error
            count += 1
    return count


@contextlib.contextmanager
def _averaging(member: nn.Module, layers: list[Any]) -> Iterator[None]:
    """Let only these layers average, each into new tensors; put the old ones back on an error."""
    modes = [(module, module.training) for module in member.modules()]
    before = [(m, m.momentum, {name: m._buffers[name] for name in _STATISTICS}) for m in layers]
    try:
        member.eval()
        for layer in layers:
            for name in _STATISTICS:
                setattr(layer, name, _fresh(layer._buffers[name]))
            layer.reset_running_stats()
            layer.momentum = None
            layer.training = True
        yield
    except BaseException:
        for layer, _, buffers in before:
            layer._buffers.update(buffers)
        raise
    finally:
        for layer, momentum, _ in before:
            layer.momentum = momentum
        for module, training in modes:
            module.training = training


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _fresh(buffer: Tensor | None) -> Tensor | None:
    return (
        None if buffer is None else torch.empty_like(buffer, memory_format=torch.contiguous_format)
    )


def _check_finite(member: nn.Module) -> None:
    """Refuse statistics that are not finite, naming the first layer that has them."""
    for path, module in member.named_modules():
        if not _tracks(module):
            continue
        sums = module.running_mean.sum() + module.running_var.sum()
        if not torch.isfinite(sums):
            raise InputError(
                f"the statistics of {path or 'the network'} are not finite after calibration: "
                "the data or the weights hold NaN or infinite values; nothing was changed"
            )
