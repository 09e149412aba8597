"""`elastic`: an existing model becomes a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import described, positional
from manynet.bindings.axes import Axis, Concat, Dim, axes_of, length
from manynet.bindings.kernel import KernelTransform
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import Slice
from manynet.elastic._choices import (
    Ratios,
    checked_patterns,
    depth_choices,
    no_depth,
    width_choices,
    with_activity,
)
from manynet.elastic._failing import failing_alone, failing_lists, failing_together, failure
from manynet.elastic._kernels import ElasticKernel, find_kernels
from manynet.elastic._reorder import Order, reorder, reorder_in_place
from manynet.elastic._run import describe_failure
from manynet.elastic._trace import Trace, trace_model
from manynet.elastic._tried import tried
from manynet.elastic._uniform import share_choices
from manynet.elastic._words import make_report, unknown_operations, why_nothing
from manynet.elastic.freeing import freed, nothing_freed
from manynet.elastic.importance import (
    BlockImportance,
    Importance,
    JointImportance,
    Loss,
    calibration_for,
    order_blocks,
    orders,
)
from manynet.errors import InputError, TraceError
from manynet.family import Blueprint, Depth, Family, Follow, Note
from manynet.space import Choice, Space

__all__ = ["elastic"]


def elastic(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    width: Ratios = (0.25, 0.5, 0.75, 1.0),
    depth: bool | Sequence[float] = True,
    kernel: bool | Sequence[int] | None = None,
    kernel_transform: bool = False,
    keep: str | Sequence[str] = (),
    importance: str | Importance | None = "l2",
    depth_importance: str | BlockImportance | JointImportance | None = None,
    data: object = None,
    loss: Loss | None = None,
    multiple_of: int | None = None,
    uniform: bool | Sequence[str] = False,
    free: bool | Sequence[str] = False,
    strict: bool = False,
    inplace: bool = False,
    source: str | None = None,
) -> Family:
    """Turn a model into a family of networks that share its weights.

    The model is run once, without data, to find which channels hang together; nothing has to be
    written for it. Channels are put in order of importance, so that a leading block of them is the
    best one. The largest member computes what the model computes; the model itself is not changed,
    unless with `inplace=True`.

    Args:
        model: any module. Its mode, training or evaluation, becomes the family's.
        example_inputs: what its forward takes: a tensor, several, or a mapping of named ones;
            only shapes matter for most models.
        width: shares of every axis of channels (features, heads …) that members may keep, or a
            mapping from patterns of axis names to shares; the first pattern that fits holds, and
            an axis that fits none stays whole. None: widths stay whole.
        depth: True to let members leave out every block that can be left out; shares of each run
            of blocks to choose from; False: all blocks stay.
        kernel: True to let convolution kernels of 5 and more shrink to every smaller odd size, or
            the sizes to choose from; None: kernels stay.
        kernel_transform: whether smaller kernels go through a learned matrix.
        keep: patterns of module paths or axis names to leave whole, such as `"layer4.*"`; one that
            fits nothing is an error.
        importance: how to order channels, heads and neurons: by the size of their weights (`"l2"`,
            `"l1"`), by what the loss would lose (`"taylor"`), by the size of their activations
            (`"activation"`), by a function (see `manynet.elastic.Importance`), or None to keep the
            model's own order.
        depth_importance: how to order blocks: `"influence"`, by how much they turn their input, a
            function (see `manynet.elastic.BlockImportance`), by training a gate on each
            (`manynet.elastic.Gates`), or None: the last of a run is left out first.
        data: what `"taylor"`, `"activation"` and `"influence"` look at: batches, each a tensor,
            (inputs, targets) or a mapping of arguments; or tensors or a data set. At most the
            first 32 batches are used.
        loss: of the outputs and the targets of a batch, for `"taylor"` and functions; by default
            the one that the model returns itself, or the cross-entropy.
        multiple_of: sizes are rounded to multiples of this. By default 8 for axes of 64 and more,
            4 for axes of 32 and more, else 1.
        uniform: one choice for the axes that play the same role in each block of a list, as all
            layers of a transformer then have one width of their MLPs; True for all such axes, or
            patterns of names. Their choice is called as they are, with a star for the number.
        free: True to put another module, which computes the same from the same weights, in the
            place of each whose code ties what its weights do not, as `nn.MultiheadAttention` ties
            heads to the width; or patterns of module paths. See `manynet.elastic.frees`.
        strict: raise where an operation of the model is not understood, instead of leaving whole
            what it touches and saying so in the report.
        inplace: take over the model and its weights instead of a copy, and put them in order one
            tensor at a time; the model must not be used afterwards.
        source: how the model can be built again, for example `"torchvision:resnet18"`.

    Returns:
        The family. `print(family.report())` says what became elastic, what did not, and why.

    Raises:
        InputError: an argument has a value that does not fit; the message says which.
        TraceError: the model cannot be run on the example inputs, or nothing in it is elastic.

    Example:
        >>> import torch, manynet
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(),
        ...                           torch.nn.Linear(32, 3))
        >>> family = manynet.elastic(net, torch.zeros(1, 8), width=(0.5, 1.0))
        >>> family.space.choices[0]
        Choice('0.width', (16, 32))

    Reference: Cai et al. 2019, arXiv 1908.09791; Fang et al. 2023, arXiv 2301.12900. Unlike
    both, nothing here is written per network.
    """
    _check_model(model, importance, depth_importance)
    inputs = positional(model, example_inputs)
    model, replaced = freed(model, inputs, free, inplace=inplace)
    calibrated = calibration_for(model, importance, depth_importance, data, loss)
    trace = share_choices(trace_model(model, inputs), uniform)
    if strict and trace.unknown:
        raise TraceError(unknown_operations(trace))
    keep = checked_patterns(model, trace, keep)
    if width is not None:
        trace = tried(model, inputs, trace, inplace=inplace)
    kernels = find_kernels(model, trace, kernel, keep)
    widths, whole = width_choices(trace, width, keep, multiple_of)
    runs, depths = depth_choices(model, trace, depth, keep)
    if depth is not False and not runs:
        whole = [*whole, no_depth(trace, keep)]
    if free and not replaced:
        whole = [*whole, Note("free", nothing_freed())]
    if calibrated is not None and depth_importance is not None and runs:
        runs = order_blocks(runs, calibrated, depth_importance)
    shared_once = {choice.name: choice for choice in widths.values()}
    choices = [*shared_once.values(), *depths, *(k.choice for k in kernels)]
    if not any(len(choice.values) > 1 for choice in choices):
        raise TraceError(
            f"nothing in {type(model).__name__} is elastic with these settings; "
            + why_nothing(trace, whole)
        )
    values = dict(model.named_parameters())
    order = orders(list(widths), trace.tensors, values, importance, data=calibrated)
    shared = _ordered(model, trace, order, inplace)
    parts = _Parts(shared, trace, kernels, kernel_transform, inputs, source, replaced)
    return parts.proved(choices, runs, whole)


def _detached(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.detach().cpu() if isinstance(x, Tensor) else x for x in inputs)


# -- weights ---------------------------------------------------------------------------------


def _ordered(
    model: nn.Module, trace: Trace, orders: Mapping[Axis, Order], inplace: bool
) -> nn.Module:
    """Return the model, or a copy of it, with its channels in order of importance."""
    if not inplace:
        return reorder(model, trace, orders)
    reorder_in_place(model, trace, orders)
    return model


def _check_model(model: nn.Module, importance: object, of_blocks: object) -> None:
    """Refuse what is no model, and one without weights that is to be put in order of them."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"elastic takes an nn.Module, not {type(model).__name__}; pass the model itself"
        )
    frozen = next(
        (n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)), None
    )
    if frozen is not None:
        raise InputError(
            f"{frozen or 'the model'} is compiled by torch.jit, and no code can be followed in it; "
            "pass the module that it was made of"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty = next((name for name, tensor in tensors if tensor.is_meta), None)
    if empty is not None and not importance is of_blocks is None:
        raise InputError(
            f"{type(model).__name__} cannot be put in order of importance: {empty} is on the meta "
            "device and has no values; load the weights first, or pass importance=None and "
            "depth_importance=None for a family of shapes only"
        )


def _with_kernels(
    tensors: Mapping[str, tuple[Dim, ...]], kernels: Sequence[ElasticKernel]
) -> dict[str, tuple[Dim, ...]]:
    result = dict(tensors)
    for kernel in kernels:
        dims = result[kernel.weight]
        result[kernel.weight] = (*dims[:2], *((kernel.axis,) for _ in dims[2:]))
    return result


def _bindings(
    shared: nn.Module,
    tensors: Mapping[str, tuple[Dim, ...]],
    space: Space,
    transformed: Sequence[ElasticKernel],
) -> dict[str, Binding]:
    names = {choice.name for choice in space.choices}
    by_weight = {kernel.weight: kernel for kernel in transformed}
    bindings: dict[str, Binding] = {}
    for name in [n for n, _ in [*shared.named_parameters(), *shared.named_buffers()]]:
        dims = tuple(_settled(dim, names) for dim in tensors[name])
        if not any(axis.frozen is None for dim in dims for axis in axes_of(dim)):
            continue
        block = Slice(name, dims)
        kernel = by_weight.get(name)
        bindings[name] = (
            block
            if kernel is None
            else KernelTransform(block, kernel.axis, kernel.sizes, kernel.names)
        )
    return bindings


def _settled(dim: Dim, choices: set[str]) -> Dim:
    """Return `dim` with one fixed factor in place of every part that has no choice."""
    if not any(axis.name in choices and axis.frozen is None for axis in axes_of(dim)):
        return (Axis("", length(dim), "no choice"),) if dim else ()
    return tuple(_settled_factor(factor, choices) for factor in dim)


def _settled_factor(factor: Axis | Concat, choices: set[str]) -> Axis | Concat:
    if isinstance(factor, Concat):
        return Concat(tuple(_settled(part, choices) for part in factor.parts))
    if factor.frozen is None and factor.name not in choices:
        return Axis("", factor.size, "no choice")
    return factor


def _follows(trace: Trace, kernels: Sequence[ElasticKernel], space: Space) -> tuple[Follow, ...]:
    names = {choice.name for choice in space.choices}
    follows = []
    for attribute, dim in trace.attributes.items():
        settled = _settled(dim, names)
        if any(axis.frozen is None for axis in axes_of(settled)):
            follows.append(Follow(attribute.path, attribute.name, attribute.index, settled))
    for kernel in kernels:
        follows += kernel.follows
    return tuple(follows)


# -- proof -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """All that a family is made of but its choices.

    Args:
        shared: the network, its channels in order.
        trace: what hangs together in it.
        kernels: its elastic kernels.
        transformed: whether smaller kernels go through a learned matrix.
        inputs: example inputs.
        source: how the network can be built again.
        freed: the paths of its modules that stand in for others.
    """

    shared: nn.Module
    trace: Trace
    kernels: Sequence[ElasticKernel]
    transformed: bool
    inputs: tuple[Any, ...]
    source: str | None
    freed: tuple[str, ...]

    def family(
        self, choices: Sequence[Choice], runs: Sequence[Depth], whole: Sequence[Note]
    ) -> Family:
        """Return the family with these choices; `whole` are notes on what stays as it is."""
        tensors = _with_kernels(self.trace.tensors, self.kernels)
        transformed = self.kernels if self.transformed else ()
        space = Space(with_activity(choices, tensors, runs))
        blueprint = Blueprint(
            bindings=_bindings(self.shared, tensors, space, transformed),
            follows=_follows(self.trace, self.kernels, space),
            depths=tuple(runs),
            report=make_report(self.shared, self.trace, choices, runs, whole, freed=self.freed),
            freed=self.freed,
        )
        extra = {
            name: nn.Parameter(matrix)
            for kernel in transformed
            for name, matrix in kernel.matrices(self.shared).items()
        }
        inputs = _detached(self.inputs)
        return Family(
            self.shared, space, blueprint, extra=extra, example_inputs=inputs, source=self.source
        )

    def proved(
        self, choices: Sequence[Choice], runs: Sequence[Depth], whole: Sequence[Note]
    ) -> Family:
        """Return the family whose smallest member runs, and that with any one list shorter.

        Where they do not, a choice stays whole without which the model's own code fails: it may
        pick a layer by a number that the trace has not seen, for example.

        Raises:
            TraceError: the smallest member does not run, whatever stays whole.
        """
        family, error = self.family(choices, runs, whole), None
        failing: dict[str, Exception] = {}
        for find in (failing_lists, failing_alone, failing_together):
            found = find(family, self.inputs)
            failing |= found
            left = [choice for choice in choices if choice.name not in failing]
            if found and left:
                kept = [run for run in runs if run.choice not in failing]
                family = self.family(left, kept, [*whole, *map(_whole_note, failing.items())])
            error = failure(family, family.space.smallest, self.inputs)
            if error is None:
                return family
        own = failure(family, family.space.largest, self.inputs)
        if own is not None:
            raise TraceError(
                f"{type(self.shared).__name__} does not run on the example inputs "
                f"({described(self.inputs)}): {own}; give those of one forward pass"
            ) from own
        raise TraceError(
            f"the smallest member of {type(self.shared).__name__} does not run: {error}; "
            "leave the part that this names whole with keep=(…), and please report the model"
        ) from error


def _whole_note(failing: tuple[str, Exception]) -> Note:
    name, error = failing
    return Note(name, f"whole: a member that has less of it fails: {describe_failure(error)}")
