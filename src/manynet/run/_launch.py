"""A family trained by several processes, as `torchrun` launches them; the first keeps the folder.

The others may be on machines that do not see it: they get the config, the untrained family and the
plan from the first, write into a folder of their own that is thrown away, and say nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from manynet._files import write_bytes
from manynet.config import Config, resolve
from manynet.errors import InputError
from manynet.run._family import START, convert, help_training
from manynet.run._folder import ENVIRONMENT
from manynet.run._material import from_config
from manynet.run._plan import Plan
from manynet.run._work import Work, own_state
from manynet.train import Hardware, find_hardware, training_alone

__all__ = ["before_training", "help_launched", "launched", "refuse_launch", "send_to_helpers"]

_FILES = (ENVIRONMENT, str(START / "family.json"), str(START / "family.safetensors"))


def _is_launched() -> bool:
    """Whether this is one of several processes, by what `torchrun` has written down for it."""
    count = os.environ.get("WORLD_SIZE", "")
    return count.isdigit() and int(count) > 1


def launched() -> Hardware | None:
    """Return this process's place among those that train together; None where it is alone."""
    return find_hardware() if _is_launched() else None


def refuse_launch(verb: str) -> None:
    """Refuse a verb that works in one process. Raises `InputError`."""
    if _is_launched():
        raise InputError(
            f"manynet {verb} works in one process, and this is one of "
            f"{os.environ['WORLD_SIZE']}: train the family with torchrun and `manynet train`, then "
            f"call `manynet {verb} FOLDER` without it"
        )


@contextmanager
def before_training(place: Hardware | None) -> Iterator[None]:
    """Do what precedes the training in the first process alone: a warm-up, measuring the pace."""
    if place is None:
        yield
        return
    with training_alone():
        yield


def send_to_helpers(place: Hardware | None, work: Work, plan: Plan) -> None:
    """Give the other processes what they need to train along; nothing if all is trained."""
    if place is None:
        return
    if (work.folder / "family.json").is_file():
        place.from_first(None)
        return
    files = {name: (work.folder / name).read_bytes() for name in _FILES}
    place.from_first({"config": work.config.to_dict(), "plan": asdict(plan), "files": files})


def help_launched() -> bool:
    """Train along where this is not the first of several processes; return whether it was one."""
    place = launched()
    if place is None or place.first:
        return False
    parcel: dict[str, Any] | None = place.from_first(None)
    if parcel is not None:
        with tempfile.TemporaryDirectory() as folder:
            _help(Path(folder), resolve(parcel["config"]), parcel)
    return True


def _help(folder: Path, config: Config, parcel: dict[str, Any]) -> None:
    for name, data in parcel["files"].items():
        write_bytes(folder / name, data)
    work = Work(folder, config, from_config(config))
    with own_state(config.seed, int(work.environment["threads"])):
        help_training(work, convert(work), Plan(**parcel["plan"]))
