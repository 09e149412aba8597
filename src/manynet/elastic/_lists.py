"""How the code of a model goes through its lists of modules: whether a shorter list would do.

A block can be taken out of a list where the code goes through whatever the list holds, or asks how
long it is, or reads its length from an attribute. Such attributes, and lists with an entry for
each block, are known by their names and values: `num_hidden_layers`, `layer_types`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from manynet.family.attributes import holders, plain_objects

__all__ = ["WatchedList", "counts_of", "watch_lists"]

_COUNTS = {"num", "n", "number", "of", "hidden", "layer", "layers", "block", "blocks", "depth"}
_LISTS = {
    "layer",
    "layers",
    "block",
    "blocks",
    "types",
    "type",
    "attention",
    "pattern",
    "mlp",
    "ffn",
}


class WatchedList(nn.ModuleList):
    """A list of modules that notes how it is read.

    The trace turns the lists of its copy into this; nothing of it reaches the user's model.
    """

    iterated: bool
    picked: bool
    counted: bool

    def __iter__(self) -> Iterator[nn.Module]:
        """Note that the code goes through all there is."""
        self.iterated = True
        return iter(self._modules.values())

    def __getitem__(self, index: Any) -> Any:
        """Note that the code picks modules by their number, or a run of them."""
        children = list(self._modules.values())
        if isinstance(index, slice):
            taken = children[index]
            self.iterated, self.picked = len(taken) == len(children), len(taken) != len(children)
            return nn.ModuleList(taken)
        self.picked = True
        return children[index]

    def __len__(self) -> int:
        """Note that the code asks how many there are."""
        self.counted = True
        return len(self._modules)


def watch_lists(model: nn.Module) -> dict[str, WatchedList]:
    """Watch every plain `ModuleList` of `model`, in place; return them by path."""
    found: dict[str, WatchedList] = {}
    for path, module in model.named_modules():
        if type(module) is nn.ModuleList:
            module.__class__ = WatchedList
            assert isinstance(module, WatchedList)
            module.__dict__.update(iterated=False, picked=False, counted=False)
            found[path] = module
    return found


def counts_of(model: nn.Module, container: str) -> tuple[tuple[str, str], ...]:
    """Return the attributes that say how many modules a list has, or that list them.

    Args:
        model: the network.
        container: the path of a list of modules.

    Returns:
        Path of a module and name of its attribute, which may go through objects that the module
        holds (`config.num_hidden_layers`). The value is the length of the list, or a list as long.
    """
    count = len(list(model.get_submodule(container).children()))
    found: list[tuple[str, str]] = []
    for path in holders(container):
        for prefix, values in plain_objects(model.get_submodule(path)):
            whose = set(re.split(r"[._]", prefix)) - {"", "config"}
            if any(word not in container for word in whose):  # the other model's config
                continue
            names = [n for n, value in values.items() if _counts(n, value, count, container)]
            own = [
                name
                for name in names
                if type(values[name]) is int and _words(name) - _COUNTS - set(re.split(r"\W", path))
            ]
            for name in names:  # beside `num_decoder_layers`, `num_layers` counts another list
                if name in own or not own or type(values[name]) is not int:
                    found.append((path, prefix + name))
    return tuple(found)


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[_\d]+", name) if word}


def _counts(name: str, value: object, count: int, container: str) -> bool:
    words = _words(name)
    if name.startswith("_") or not {"layer", "layers", "block", "blocks", "depth"} & words:
        return False
    if type(value) is int:
        known = _COUNTS
        fits = value == count
    else:
        known = _LISTS
        fits = isinstance(value, (list, tuple)) and len(value) == count
    return fits and all(word in known or word in container for word in words)
