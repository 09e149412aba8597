"""What a family knows beside its weights and its module tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from manynet.bindings.axes import Axis, Dim, length
from manynet.bindings.protocol import Binding
from manynet.space import Value

__all__ = ["Blueprint", "Depth", "Follow", "Note", "Report"]


@dataclass(frozen=True)
class Follow:
    """An attribute of a module that follows a dimension: `offset + scale * length // divisor`.

    Args:
        path: the module.
        name: the attribute; it may go through objects, as `config.hidden_size` does.
        index: the position in it where it is a tuple or a list, else None.
        dim: the dimension whose length it follows.
        offset: added to it. A convolution's padding follows its kernel this way.
        scale: multiplied with the length.
        divisor: divides the product, rounding down.
    """

    path: str
    name: str
    index: int | None
    dim: Dim
    offset: int = 0
    scale: int = 1
    divisor: int = 1

    def value(self, sizes: Mapping[Axis, int]) -> int:
        """Return the attribute's value in a member of these `sizes`."""
        return self.offset + self.scale * length(self.dim, sizes) // self.divisor


@dataclass(frozen=True)
class Depth:
    """A run of blocks of which a member keeps the most important ones, in the order of the network.

    Args:
        choice: name of the choice that holds how many are kept.
        blocks: paths of the blocks that can be left out, most important first: a member leaves out
            the last ones of this list. Without an importance it is the order of the network.
        closes: whether the list that holds them closes the gaps, so that the next block moves up;
            else an identity takes the place of each.
        counts: path and name of the attributes that hold the length of that list, or an entry for
            each of its modules.
    """

    choice: str
    blocks: tuple[str, ...]
    closes: bool = False
    counts: tuple[tuple[str, str], ...] = ()

    def dropped(self, arch: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the paths that the member of `arch` does without."""
        return self.blocks[int(arch[self.choice]) :]

    @property
    def container(self) -> str:
        """Path of the module that holds the blocks."""
        return self.blocks[0].rpartition(".")[0]


@dataclass(frozen=True)
class Note:
    """One line of a report: a choice and what it cuts, or a thing left whole and why."""

    name: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What became elastic, what did not, and why."""

    elastic: tuple[Note, ...] = ()
    fixed: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()

    def __str__(self) -> str:
        """Return the report as aligned text."""
        blocks = [
            ("elastic", self.elastic),
            ("left whole", self.fixed),
            ("worth knowing", self.warnings),
        ]
        width = max((len(note.name) for _, notes in blocks for note in notes), default=0)
        lines = []
        for title, notes in blocks:
            if notes:
                lines.append(f"{title} ({len(notes)})")
                lines += [f"  {note.name:<{width}}  {note.detail}" for note in notes]
        return "\n".join(lines) or "nothing is elastic"


@dataclass(frozen=True)
class Blueprint:
    """All that a family knows beside its weights and its module tree.

    Args:
        bindings: how each bound tensor is read, by its first name; the others are read whole.
        follows: attributes of modules that change with the arch.
        depths: runs of blocks that can be left out.
        report: what became elastic, what did not, and why.
        freed: paths of modules that stand in for others whose code ties what their weights do not,
            see `manynet.elastic.frees`.
    """

    bindings: Mapping[str, Binding]
    follows: tuple[Follow, ...] = ()
    depths: tuple[Depth, ...] = ()
    report: Report = field(default_factory=Report)
    freed: tuple[str, ...] = ()
