"""`load`: a family from its folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from manynet.elastic.freeing import free_again
from manynet.errors import InputError
from manynet.family import Family
from manynet.family.file import load_family, read_freed, read_source
from manynet.models.build import build, runs_user_code

__all__ = ["load"]


def load(
    path: Path | str, model: nn.Module | None = None, *, device: torch.device | str = "cpu"
) -> Family:
    """Return the family that `Family.save` wrote into the folder `path`. Runs no code from it.

    Args:
        path: the folder.
        model: a network like the one the family was made of. May be left out where the family
            knows its name in a library, such as `torchvision:resnet18`. What was freed in that one
            is freed in it.
        device: where to put the shared weights.

    Raises:
        StorageError: a file is missing, truncated, damaged or not of a family.
        InputError: `model` is missing or is another network.

    Example:
        >>> import torch, manynet, tempfile
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> family = manynet.elastic(net, torch.zeros(1, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     family.save(folder)
        ...     again = manynet.load(folder, model=net)
        >>> again.space == family.space
        True
    """
    path = Path(path)
    if model is None:
        source = read_source(path)
        if source is None or runs_user_code(source):
            named = f"it was made of {source}, which is code of yours" if source else "unnamed"
            raise InputError(
                f"the network of the family in {path} must be handed in ({named}): "
                "load(path, model=your_network)"
            )
        model = build(source)
    return load_family(path, free_again(model, read_freed(path))).to(device)
