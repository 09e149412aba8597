"""Which tensors `bind` is asked for: those of modules of a type, of patterns, or of groups."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from manynet.errors import InputError

__all__ = ["Sites", "Where", "groups_of", "split"]

Where: TypeAlias = (
    "type[nn.Module] | tuple[type[nn.Module], ...] | str | Sequence[str] | Sequence[Sequence[str]]"
)


@dataclass(frozen=True)
class Sites:
    """The tensors of a model, and the names that each has.

    Args:
        values: first name to value; parameters come first.
        trained: the names of the parameters.
        first: each name to the first name of its tensor. Layers that share one have several.
    """

    values: dict[str, Tensor]
    trained: frozenset[str]
    first: dict[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> Sites:
        parameters = dict(model.named_parameters())
        own = {**parameters, **dict(model.named_buffers())}
        names = {id(tensor): name for name, tensor in own.items()}
        every = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        return cls(
            {name: tensor.detach() for name, tensor in own.items()},
            frozenset(parameters),
            {name: names[id(tensor)] for name, tensor in every},
        )

    def inside(self, module: str) -> list[str]:
        """Return the names of the tensors of a module and of those in it."""
        return [name for name in self.first if name.startswith(f"{module}.")]

    def fitting(self, pattern: str) -> list[str]:
        """Return the first names of the parameters that a pattern names, or else of the buffers.

        Raises:
            InputError: it names none.
        """
        fits = [self.first[n] for n in self.first if fnmatch.fnmatchcase(n, pattern)]
        found = [name for name in fits if name in self.trained] or fits
        if found:
            return found
        inside = self.inside(pattern)
        if inside:
            raise InputError(
                f"{pattern!r} is a module; name parameters of it, such as {_some(inside)}"
            )
        near = difflib.get_close_matches(pattern, self.first, n=3)
        raise InputError(
            f"no parameter matches {pattern!r}; {'near it are' if near else 'there are'} "
            f"{_some(near or list(self.first))}"
        )


def groups_of(model: nn.Module, sites: Sites, where: Where) -> list[list[str]]:
    """Return the names of the tensors that `where` asks for, group by group, in model order.

    Raises:
        InputError: a part of `where` names nothing, or one tensor is in two groups.
    """
    types = where if isinstance(where, tuple) else (where,)
    if types and all(isinstance(one, type) for one in types):
        return [_in_order(sites, _of_types(model, sites, types))]
    if not isinstance(where, str | Sequence) or not where:
        raise InputError(
            f"where is {where!r}; give a class of modules, a pattern such as 'blocks.*.weight', "
            "several, or groups of them"
        )
    groups: list[list[str]] = [[]]
    for one in [where] if isinstance(where, str) else where:
        if isinstance(one, str):
            groups[0] += sites.fitting(one)
        elif isinstance(one, Sequence) and one and all(isinstance(name, str) for name in one):
            groups.append([name for pattern in one for name in sites.fitting(pattern)])
        else:
            raise InputError(f"{one!r} in where is no pattern and no group of patterns")
    found = [_in_order(sites, group) for group in groups if group]
    owner: dict[str, int] = {}
    for number, group in enumerate(found):
        for name in group:
            if owner.setdefault(name, number) != number:
                raise InputError(
                    f"{name!r} is in groups {owner[name] + 1} and {number + 1} of where; a tensor "
                    "is bound once, so leave it out of one"
                )
    return found


def split(names: Sequence[str], values: dict[str, Tensor]) -> Iterator[list[str]]:
    """Yield the names of tensors of one shape each."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        shapes.setdefault(tuple(values[name].shape), []).append(name)
    yield from shapes.values()


def _of_types(model: nn.Module, sites: Sites, types: Sequence[type[nn.Module]]) -> list[str]:
    """Return the weights that modules of the types hold themselves."""
    kinds: tuple[type[nn.Module], ...] = tuple(types)
    path: dict[nn.Module, str] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, kinds):
            path[module] = prefix
    names = [
        f"{prefix}.{name}" if prefix else name
        for module, prefix in path.items()
        for name, tensor in module._parameters.items()
        if tensor is not None and "weight" in name
    ]
    if names:
        return [sites.first[name] for name in names]
    words = " or ".join(one.__name__ for one in types)
    if not path:
        raise InputError(f"the model has no {words}; it has {_some(_kinds(model))}")
    inside = [name for prefix in path.values() for name in sites.inside(prefix)]
    raise InputError(
        f"{words} holds no weight itself; name those inside with a pattern"
        + (f", such as {_some(inside)}" if inside else "")
    )


def _kinds(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(type(m).__name__ for m in model.modules() if m._parameters))


def _in_order(sites: Sites, names: Iterable[str]) -> list[str]:
    asked = set(names)
    return [name for name in sites.values if name in asked]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4:,} more"
