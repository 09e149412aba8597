"""`replace_head`: the weights of a family serve another task, with another module at the end."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from manynet.bindings.axes import Axis, Dim, axes_of, length
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import Slice
from manynet.elastic._cut import dims_of
from manynet.errors import InputError
from manynet.family import Family
from manynet.family.skeleton import Skeleton

__all__ = ["replace_head"]


def replace_head(family: Family, path: str, module: nn.Module) -> Family:
    """Return a copy of a family with another module in one place; all else keeps its values.

    Masks and channels that were cut stay as they are. The new module is read as it is, without a
    mask; where members cut what comes into it, its weights are cut alike.

    Args:
        family: stays as it is.
        path: of the module that is replaced, such as `"head"`.
        module: the new one, on the family's device; the new family owns it.

    Raises:
        InputError: there is no such module, or the new one does not take what comes in.

    Example:
        >>> import manynet as mn, torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> family = mn.elastic(model, torch.zeros(1, 4), width=(0.5, 1.0))
        >>> other = replace_head(family, "1", nn.Linear(8, 5))
        >>> other.at({"0.width": 4})(torch.zeros(3, 4)).shape
        torch.Size([3, 5])
    """
    paths = {name for name, _ in family.named_modules() if name}
    if path not in paths:
        raise InputError(f"the family has no module {path!r}; there are {', '.join(sorted(paths))}")
    inside = f"{path}."
    own = [*family.shared.named_parameters(), *family.shared.named_buffers()]
    shared, _ = Skeleton(family.shared).build({name: _copied(t) for name, t in own})
    shared.set_submodule(path, module)
    kept = {n: b for n, b in family.blueprint.bindings.items() if not n.startswith(inside)}
    read = {name for binding in kept.values() for name in binding.reads}
    old = {name: dims for name, dims in dims_of(family).items() if name.startswith(inside)}
    new = {
        f"{inside}{name}": _cut_alike(f"{inside}{name}", tensor, old[f"{inside}{name}"])
        for name, tensor in module.named_parameters()
        if any(a.frozen is None for dim in old.get(f"{inside}{name}", ()) for a in axes_of(dim))
    }
    made = Family(
        shared,
        family.space,
        replace(
            family.blueprint,
            bindings={**kept, **new},
            follows=tuple(
                f
                for f in family.blueprint.follows
                if not f"{f.path}.".startswith(inside)
                or _has(module, f"{f.path}.".removeprefix(inside).rstrip("."), f.name)
            ),
        ),
        extra={name: _copied(t) for name, t in family.extra.items() if name in read},
        example_inputs=family.example_inputs,
    )
    made.cuts.update(family.cuts)
    return made.train(family.training)


def _copied(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
    return tensor.detach().clone()


def _has(module: nn.Module, path: str, name: str) -> bool:
    parts = dict(module.named_modules())
    return path in parts and hasattr(parts[path], name.partition(".")[0])


def _cut_alike(name: str, tensor: Tensor, dims: tuple[Dim, ...]) -> Binding:
    """Return how a weight of the new module is read where members cut what comes into it."""
    rows: Dim = (Axis("", tensor.shape[0], "whole"),)
    binding = Slice(name, (rows, *dims[1:]))
    reads = tuple(length(dim) for dim in dims[1:])
    if tuple(tensor.shape[1:]) != reads or any(a.frozen is None for a in axes_of(dims[0])):
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}, and the place takes weights of shape "
            f"(any, {', '.join(map(str, reads))}), whose rows are the outputs"
        )
    return binding
