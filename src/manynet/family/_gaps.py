"""What else changes in a member whose lists of blocks are shorter: counts and numbers of blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import nn

from manynet.family.attributes import owner
from manynet.family.blueprint import Depth

__all__ = ["Gaps"]

Places = dict[str, int]
Number = tuple[str, str]


class Gaps:
    """Closes the gaps that dropped blocks leave in lists.

    A block may know its own number (`layer_idx`, by which caches are looked up), and the model the
    length of its lists (`num_hidden_layers`) or an entry for each block (`layer_types`).

    Args:
        shared: the largest network.
        depths: its runs of blocks.
    """

    def __init__(self, shared: nn.Module, depths: Iterable[Depth]) -> None:
        self.shared = shared
        closing = [depth for depth in depths if depth.closes]
        self.containers = frozenset(depth.container for depth in closing)
        self._counts = {depth.container: depth.counts for depth in closing}
        self._places = {
            path: {f"{path}.{name}" if path else name: i for i, name in enumerate(names)}
            for path in self.containers
            if (names := [name for name, _ in shared.get_submodule(path).named_children()])
        }
        self._numbers = {
            path: _numbers(shared, places) if len(places) > 1 else {}
            for path, places in self._places.items()
        }

    def close(self, parts: Mapping[str, nn.Module], dropped: Collection[str]) -> None:
        """Set what changes in a member without the `dropped` blocks.

        Args:
            parts: the member's modules by their path in the largest network.
            dropped: the paths of the blocks that it does without.
        """
        for container, places in self._places.items():
            kept = [place for path, place in places.items() if path not in dropped]
            if len(kept) == len(places):
                continue
            for path, name in self._counts[container]:
                if path in parts:
                    self._shorten(parts[path], path, name, kept)
            for new, old in enumerate(kept):
                for (path, name), first in self._numbers[container].get(old, {}).items():
                    if new != old and path in parts:
                        values, key = owner(parts[path], name)
                        values[key] = first + new

    def _shorten(self, part: nn.Module, path: str, name: str, kept: list[int]) -> None:
        whole, key = owner(self.shared.get_submodule(path), name)
        values, _ = owner(part, name)
        if isinstance(whole[key], int):
            values[key] = len(kept)
        else:
            values[key] = type(whole[key])(whole[key][place] for place in kept)


def _numbers(shared: nn.Module, places: Places) -> dict[int, dict[Number, int]]:
    """Return the attributes that number each block, with the number that the first block has.

    An attribute numbers the blocks where, in all blocks that have one so called, its value grows
    with the block's place.
    """
    found: dict[str, dict[int, list[tuple[Number, int]]]] = {}
    for path, place in places.items():
        for inner, name, value in _integers(shared.get_submodule(path)):
            at = f"{path}.{inner}" if inner else path
            found.setdefault(name, {}).setdefault(place, []).append(((at, name), value))
    numbers: dict[int, dict[Number, int]] = {}
    for by_place in found.values():
        firsts = {value - place for place, own in by_place.items() for _, value in own}
        if len(firsts) == 1 and len(by_place) > 1:
            for place, own in by_place.items():
                numbers.setdefault(place, {}).update({key: firsts.copy().pop() for key, _ in own})
    return numbers


def _integers(block: nn.Module) -> Iterator[tuple[str, str, int]]:
    for path, module in block.named_modules():
        for name, value in module.__dict__.items():
            if type(value) is int and not name.startswith("_"):
                yield path, name, value
