"""Whether a file computes what the network computes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from manynet._inputs import (
    Example,
    Inputs,
    batch_of,
    device_of,
    evaluating,
    moved,
    positional,
    tensors_in,
    with_batch,
)
from manynet.deploy._formats import Format, format_of, runner_of
from manynet.errors import InputError, StorageError, VerificationError

__all__ = ["compared", "difference_of", "verify"]


def verify(
    member: nn.Module,
    path: Path | str,
    inputs: Example,
    *,
    tolerance: float = 1e-4,
    dynamic_batch: bool = True,
    format: str | None = None,
) -> float:
    """Run an exported file on inputs and compare its outputs with the network's.

    It runs at two batch sizes: the inputs' own, and one sample (or two, if there is one). The file
    runs on the CPU; a network elsewhere runs where it is.

    Args:
        member: the network, which is judged in eval mode.
        path: the file.
        inputs: real inputs, best some of the validation data.
        tolerance: the largest difference allowed.
        dynamic_batch: the file takes any batch size; otherwise only the inputs' own is run.
        format: of the file, if its name does not say.

    Returns:
        The largest difference of an output, as a share of the network's largest output where that
        is above 1.

    Raises:
        VerificationError: the outputs differ by more, in number, or in shape.
        StorageError: the file is missing or damaged.
        InputError: the inputs do not fit, or the network's own outputs are not finite.
        MissingExtraError: ONNX Runtime is needed and not installed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    found = format_of(path, format)
    return difference_of(
        member,
        data,
        found,
        positional(member, inputs),
        tolerance,
        dynamic_batch=dynamic_batch,
        name=path,
    )


def difference_of(
    member: nn.Module,
    data: bytes,
    format: Format,
    inputs: Inputs,
    tolerance: float,
    *,
    dynamic_batch: bool,
    name: Path | str,
) -> float:
    """Return how far the outputs of a file's bytes are from the network's; see `verify`."""
    size = batch_of(inputs)
    sizes = (size, 1 if size > 1 else 2) if dynamic_batch else (size,)
    with evaluating(member), torch.no_grad():
        run = runner_of(member, data, format)
        worst = 0.0
        for rows in sizes:
            given = with_batch(inputs, rows)
            wanted = _own_outputs(member, given)
            try:
                found = run(moved(given, torch.device("cpu")))
            except Exception as error:
                raise VerificationError(
                    f"{name} cannot run a batch of {rows}, and {type(member).__name__} can: "
                    f"{str(error).splitlines()[0]}; was it made with dynamic_batch=True?"
                ) from error
            worst = max(worst, _difference(wanted, found, f"{name} at a batch of {rows}"))
    if not worst <= tolerance:
        raise VerificationError(
            f"{name} differs from {type(member).__name__} by {worst:.3g} on these inputs, and "
            f"{tolerance:g} is allowed; nothing was written or kept in its name"
        )
    return worst


def _own_outputs(member: nn.Module, inputs: Inputs) -> list[Tensor]:
    outputs = [t.detach().cpu() for t in tensors_in(member(*moved(inputs, device_of(member))))]
    if not outputs:
        raise InputError(f"{type(member).__name__} returns no tensor, so nothing can be compared")
    if not all(torch.isfinite(output).all() for output in outputs if output.is_floating_point()):
        raise InputError(
            f"{type(member).__name__} returns values that are not finite on these inputs, so no "
            "file of it can be verified; look for NaN in the inputs, weights and statistics"
        )
    return outputs


def compared(wanted: object, found: object, where: str) -> float:
    """Return the largest difference of what two networks return, as a share of the scale above 1.

    Raises:
        VerificationError: they differ in number or in shape.
    """
    return _difference([t.cpu() for t in tensors_in(wanted)], tensors_in(found), where)


def _difference(wanted: list[Tensor], found: list[Tensor], where: str) -> float:
    """Return the largest difference of two lists of outputs, by their scale."""
    if [t.shape for t in wanted] != [t.shape for t in found]:
        raise VerificationError(
            f"{where} returns {[tuple(t.shape) for t in found]}, and the network "
            f"{[tuple(t.shape) for t in wanted]}"
        )
    pairs = [(a.double(), b.double()) for a, b in zip(wanted, found, strict=True) if a.numel()]
    scales = [max(1.0, float(a.abs().max())) for a, _ in pairs]
    gaps = [float((a - b).abs().max()) for a, b in pairs]
    return max((gap / scale for gap, scale in zip(gaps, scales, strict=True)), default=0.0)
