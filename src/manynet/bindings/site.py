"""Where a binding is applied: a `Site` is one tensor, a `Group` the sites bound together."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor, nn

from manynet.bindings.axes import Axis, Dim
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import Slice
from manynet.errors import InputError
from manynet.space import Choice, Constraint

__all__ = ["Group", "Site", "check_counts"]


@dataclass
class Site:
    """One tensor of the model.

    Args:
        name: its name.
        tensor: its value in the largest member.
        binding: how members read it so far; None for whole.
        group: what it belongs to.
        is_buffer: whether it is one that no optimizer moves, such as a norm's statistics.
    """

    name: str
    tensor: Tensor
    binding: Binding | None
    group: Group = field(repr=False)
    is_buffer: bool = False

    @property
    def weight(self) -> Binding:
        """How members read this tensor so far."""
        return self.reads(self.name) if self.binding is None else self.binding

    @property
    def dims(self) -> tuple[Dim, ...]:
        """What each dimension of the tensor is made of."""
        if isinstance(self.binding, Slice):
            return self.binding.dims
        return tuple((Axis("", size, "whole"),) for size in self.tensor.shape)

    def reads(self, source: str | Binding) -> Binding:
        """Return what this site reads of something that has its shape: cut as its tensor is."""
        return Slice(source, self.dims)

    def by_row(self, source: Binding, entries: int) -> Binding:
        """Return what this site reads of something with `entries` numbers for each of its rows."""
        return Slice(source, (self.dims[0], (Axis("", entries, "whole"),)))

    def parameter(self, role: str, value: Tensor, *, alike: bool = False) -> Binding:
        """Add a shared parameter of this site's own; `alike`: cut as the site's tensor is.

        A value of one row for each of the tensor's, such as `(rows, 1)`, is cut in its rows.
        """
        name = self.group.add(f"{self.name}.{role}", nn.Parameter(value.detach().clone()))
        return self._cut(name, value) if alike else self.group.whole(name)

    def buffer(self, role: str, value: Tensor, *, alike: bool = False) -> Binding:
        """Add a shared buffer of this site's own; `alike`: cut as the site's tensor is."""
        name = self.group.add(f"{self.name}.{role}", value.detach().clone())
        return self._cut(name, value) if alike else self.group.whole(name)

    def _cut(self, name: str, value: Tensor) -> Binding:
        sizes = zip(self.dims, value.shape, self.tensor.shape, strict=True)
        return Slice(
            name,
            tuple(dim if size == full else (Axis("", size, "whole"),) for dim, size, full in sizes),
        )


class Group:
    """Sites that are bound together, and what their bindings need beside the model's tensors.

    Args:
        taken: names of shared tensors that are there already.
    """

    def __init__(self, taken: Collection[str] = ()) -> None:
        self._taken = frozenset(taken)
        self.sites: list[Site] = []
        self.extra: dict[str, Tensor] = {}
        self.choices: list[Choice] = []
        self.constraints: list[Constraint] = []
        self._known: dict[str, Binding] = {}

    def add(self, name: str, tensor: Tensor) -> str:
        """Add a shared tensor and return its name, with a number where an earlier one has it."""
        if name in self.extra:
            raise InputError(f"{name!r} is added twice; give each tensor a role of its own")
        free = (f"{name}.{number}" for number in itertools.count(2))
        name = next(free) if name in self._taken else name
        while name in self._taken:
            name = next(free)
        self.extra[name] = tensor
        return name

    def parameter(self, role: str, value: Tensor) -> Binding:
        """Add a shared parameter that all sites may read."""
        name = f"{self.sites[0].name}.shared_{role}"
        return self.whole(self.add(name, nn.Parameter(value.detach().clone())))

    def whole(self, name: str) -> Binding:
        """Return the binding that reads all of an added tensor."""
        dims = tuple((Axis("", size, "whole"),) for size in self.extra[name].shape)
        return self._known.setdefault(name, Slice(name, dims))

    def constrain(self, constraint: Constraint) -> None:
        """Add a constraint to the space."""
        if constraint not in self.constraints:
            self.constraints.append(constraint)

    def choice(self, choice: Choice) -> None:
        """Add a choice to the space."""
        if choice not in self.choices:
            self.choices.append(choice)


def check_counts(recipe: str, **counts: object) -> None:
    """Check that the settings of a recipe are whole numbers of at least one.

    Raises:
        InputError: one is not.

    Example:
        >>> check_counts("mixed", atoms=0)
        Traceback (most recent call last):
        manynet.errors.InputError: mixed: atoms is 0; give a whole number of at least 1
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{recipe}: {name} is {value!r}; give a whole number of at least 1")
