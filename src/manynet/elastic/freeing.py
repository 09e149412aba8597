"""Frees choices that only the code of a module ties, by another module that computes the same.

`nn.MultiheadAttention` takes the width that it reads for its heads times their size, so that a
member with half the heads has half the width too. The weights do not ask for it: another module
that holds the same ones computes the same, and its heads are a choice of their own. `elastic(…,
free=True)` puts it in place. Add one for a class of your own in your own file:

    @frees(Attention)
    def _attention(module):
        return recast(module, FreeAttention)
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from manynet.elastic._tried import alike, outputs_of
from manynet.errors import InputError
from manynet.family.skeleton import Skeleton
from manynet.family.swap import swap

__all__ = ["FREEING", "free_again", "freed", "frees", "nothing_freed", "recast"]

Free = Callable[[Any], nn.Module]
Kind = TypeVar("Kind", bound=nn.Module)

FREEING: dict[type[nn.Module], Free] = {}
"""What frees each module type. A subclass is not its base here: it may compute something else."""


def frees(*types: type[nn.Module]) -> Callable[[Free], Free]:
    """Register what frees a module type from a tie that only its code makes.

    Args:
        types: the module types, each by itself: a subclass may have a forward of its own.

    Returns:
        A decorator for a function of a module that returns another one, which computes the same
        from the same parameters under the same names. Where that one has a method `tied`, which
        returns the original class again or None where its sizes do not fit it, extracted members
        hold the original wherever they can.

    Example:
        >>> import torch
        >>> class Tied(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.heads, self.size = 2, 4
        ...         self.value, self.out = nn.Linear(8, 8), nn.Linear(8, 8)
        ...     def forward(self, x):
        ...         heads = self.value(x).view(len(x), self.heads, self.size).relu()
        ...         return x + self.out(heads.view(x.shape))  # as wide as what comes in
        >>> class Free(Tied):
        ...     def forward(self, x):
        ...         heads = self.value(x).view(len(x), self.heads, self.size).relu()
        ...         return x + self.out(heads.flatten(1))
        >>> @frees(Tied)
        ... def free_tied(module):
        ...     return recast(module, Free)
        >>> net, x = nn.Sequential(nn.Linear(3, 8), Tied(), nn.Linear(8, 2)), torch.randn(1, 3)
        >>> from manynet import elastic
        >>> [choice.name for choice in elastic(net, x, depth=False).space.choices]
        ['1.heads', '1.size']
        >>> [choice.name for choice in elastic(net, x, depth=False, free=True).space.choices]
        ['0.width', '1.heads', '1.size']
        >>> del FREEING[Tied]
    """

    def register(function: Free) -> Free:
        for module_type in types:
            FREEING[module_type] = function
        return function

    return register


def recast(module: nn.Module, kind: type[Kind]) -> Kind:
    """Return a module of another class with everything that `module` holds.

    Parameters, buffers, children and hooks are the same objects. The constructor is not called.

    Args:
        module: stays as it is.
        kind: as a rule a subclass of its class, with another `forward`.
    """
    twin = kind.__new__(kind)
    for name, value in vars(module).items():
        vars(twin)[name] = copy.copy(value) if isinstance(value, dict | list | set) else value
    return twin


def freed(
    model: nn.Module, inputs: tuple[Any, ...], which: bool | Sequence[str], *, inplace: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a model whose ties are freed, and the paths of the modules that were replaced.

    Args:
        model: is changed only with `inplace`; else the result shares its tensors.
        inputs: arguments on which both must compute the same.
        which: True for every module that can be freed, or patterns of paths.
        inplace: whether to put the new modules into the model itself.

    Raises:
        InputError: a pattern fits no module that can be freed, or one computes something else
            afterwards.
    """
    given = (which,) if isinstance(which, str) else which or ()
    patterns = ["*"] if given is True else list(given)
    known = {path: module for path, module in model.named_modules() if type(module) in FREEING}
    for pattern in patterns:
        if which is not True and not any(fnmatch.fnmatchcase(path, pattern) for path in known):
            raise InputError(f"free: {pattern!r} fits no module that can be freed; {_those(known)}")
    paths = [path for path in known if any(fnmatch.fnmatchcase(path, p) for p in patterns)]
    if not paths:
        return model, ()
    before = _outputs(model, inputs)
    made = free_again(model if inplace else _twin(model), paths)
    after = None if before is None else _outputs(made, inputs)
    if before is not None and not (after is not None and all(map(alike, before, after))):
        names = ", ".join(sorted({type(known[path]).__name__ for path in paths}))
        raise InputError(
            f"free: the model does not compute the same when {paths[0]} and the others are freed; "
            f"what frees {names} has to return a module that does"
        )
    return made, tuple(paths)


def free_again(model: nn.Module, paths: Iterable[str]) -> nn.Module:
    """Put what frees them in the place of the modules at `paths`; return the model.

    A module there that nothing is registered for stays: it may be free already.
    """
    parts = dict(model.named_modules())
    tied = [parts[path] for path in paths if path in parts and type(parts[path]) in FREEING]
    return swap(model, {module: FREEING[type(module)](module) for module in tied})


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor] | None:
    """Return what a model computes; None where it has no values, or where it fails."""
    if any(tensor.is_meta for tensor in model.parameters()):
        return None
    try:
        with torch.no_grad():
            return outputs_of(model, inputs)
    except Exception:
        return None


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy of the tree that holds the model's own tensors."""
    skeleton = Skeleton(model)
    return skeleton.build(skeleton.tensors)[0]


def _those(known: Mapping[str, nn.Module]) -> str:
    return f"there are, for example, {', '.join(list(known)[:5])}" if known else nothing_freed()


def nothing_freed() -> str:
    """Say that a model has no module that can be freed, and what to do."""
    names = ", ".join(sorted(kind.__name__ for kind in FREEING))
    return f"the model has no {names} itself; manynet.elastic.frees is for other classes"
