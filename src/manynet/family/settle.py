"""`settle`: put what a binding has learned to compute in place of the binding."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings.operation import Operation, evaluate, walk
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import whole
from manynet.errors import InputError
from manynet.family._family import Family

__all__ = ["settle"]


def settle(family: Family, kind: type[Operation]) -> Family:
    """Return the family with each binding of a kind replaced by a parameter that holds its value.

    What only those bindings read is dropped: the network that generates coefficients, for example,
    once they are as they shall be. Every member computes what it did before.

    Args:
        family: its weights belong to the new family from then on.
        kind: the class of the bindings to replace, such as `Generate`; they may be operands of
            others, at any depth, and one that several sites read becomes one parameter.

    Raises:
        InputError: there is no such binding, or the value of one hangs on the arch.

    Example:
        >>> import torch
        >>> from manynet import bind
        >>> from manynet.bindings import Generate
        >>> from manynet.bindings.recipes import generated
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        >>> family = settle(bind(model, "*.weight", generated()), Generate)
        >>> sorted(family.extra)
        ['0.weight.generate', '1.weight.generate']
    """
    change = _Change(family, kind)
    bindings = {name: change.of(name, b) for name, b in family.blueprint.bindings.items()}
    if not change.made:
        found = sorted(
            {type(b).__name__ for top in family.blueprint.bindings.values() for b in walk(top)}
        )
        raise InputError(
            f"no binding of the family is a {kind.__name__}; it has {', '.join(found) or 'none'}"
        )
    before = {name for b in family.blueprint.bindings.values() for name in b.reads}
    after = {name for b in bindings.values() for name in b.reads}
    extra = {n: t for n, t in family.extra.items() if n in after or n not in before}
    old = family.blueprint
    new = Family(
        family.shared,
        family.space,
        dataclasses.replace(old, bindings=bindings),
        extra={**extra, **{n: t for n, t in change.made.items() if n in after}},
        example_inputs=family.example_inputs,
        source=family.source,
    )
    return new.train(family.training)


class _Change:
    """Replaces bindings in trees, each once, and collects the parameters made for them."""

    def __init__(self, family: Family, kind: type[Operation]) -> None:
        self.family, self.kind = family, kind
        self.made: dict[str, Tensor] = {}
        self._known: dict[int, Binding] = {}

    def of(self, site: str, binding: Binding) -> Binding:
        """Return what stands in the place of `binding`: itself where nothing in it changes."""
        if id(binding) not in self._known:
            new = (
                self._value(site, binding)
                if isinstance(binding, self.kind)
                else self._inside(site, binding)
            )
            self._known[id(binding)] = new
        return self._known[id(binding)]

    def _inside(self, site: str, binding: Binding) -> Binding:
        changed: dict[str, Any] = {}
        for field in getattr(binding, "__dataclass_fields__", {}).values():
            old = getattr(binding, field.name)
            if isinstance(old, tuple):
                new: Any = tuple(self.of(site, b) if _is_binding(b) else b for b in old)
                same = all(a is b for a, b in zip(old, new, strict=True))
            else:
                new = self.of(site, old) if _is_binding(old) else old
                same = new is old
            if not same:
                changed[field.name] = new
        return dataclasses.replace(binding, **changed) if changed else binding  # type: ignore[type-var]

    def _value(self, site: str, binding: Binding) -> Binding:
        space, shared = self.family.space, self.family.state_dict()
        with torch.no_grad():
            largest, smallest = (
                evaluate(binding.at(arch, self.family._sizes(arch)), shared)
                for arch in (space.largest, space.smallest)
            )
        if not torch.equal(largest, smallest):
            raise InputError(
                f"what {site} reads through {self.kind.__name__} hangs on the arch, so no one "
                "value can stand for it; settle before you add choices, or extract members"
            )
        name = f"{site}.{self.kind.kind}"
        name += str(sum(made.startswith(name) for made in self.made) or "")
        value = nn.Parameter(largest.detach().clone())
        self.made[name] = value
        return whole(name, value)


def _is_binding(value: object) -> bool:
    return hasattr(value, "at") and hasattr(value, "to_json")
