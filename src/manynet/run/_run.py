"""A run from its first stage to its last, and each verb of the command line by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from manynet._files import read_json, write_json
from manynet._inputs import moved
from manynet.config import Config, resolve, save_config
from manynet.deploy import Manifest, read_manifest
from manynet.errors import BudgetError, InputError, ManynetError, StorageError
from manynet.family import Family
from manynet.models import load
from manynet.report import write_report
from manynet.run._costs import check_counters, check_names
from manynet.run._diary import PROGRESS, Diary
from manynet.run._events import Tell, silent
from manynet.run._family import convert, pace_of, threads_for, train_family
from manynet.run._folder import CONFIG, ENVIRONMENT, LOCK, held, is_run, open_folder, saved_config
from manynet.run._front import find_front, read_front
from manynet.run._launch import before_training, launched, refuse_launch, send_to_helpers
from manynet.run._material import Material, from_config
from manynet.run._members import chosen, export_again, load_member, ship, ship_one, test_figures
from manynet.run._plan import Plan, plan_for
from manynet.run._ranking import rank_alone
from manynet.run._result import RunResult, Trained
from manynet.run._work import Work, own_state
from manynet.search import Front, Quality, Record
from manynet.train import Hardware, Loss

__all__ = [
    "export_verb",
    "extract_verb",
    "report_verb",
    "run_all",
    "search_verb",
    "train_verb",
    "trained_family",
]

RESULT = "result.json"


def run_all(
    config: Config,
    folder: Path,
    *,
    material: Material | None = None,
    quality: Quality | None = None,
    loss: Loss | None = None,
    tell: Tell = silent,
) -> RunResult:
    """Do all that is left of a run; see `manynet.run` and `run_config`."""
    with _opened(
        "run", config, folder, tell, material=material, quality=quality, loss=loss
    ) as work:
        if not (folder / RESULT).is_file():
            family, plan = _trained(work)
            front = find_front(work, family, plan)
            rank_alone(work, family, plan)
            ship(work, family, front, plan)
            _page(work)
            write_json(folder / RESULT, _summary(work, family, front))
        return _result(work)


def train_verb(config: Config, folder: Path, *, tell: Tell = silent) -> dict[str, Any]:
    """Make and train the family, and stop there; other processes of a launch help."""
    place = launched()
    with _opened("train", config, folder, tell) as work:
        family, plan = _trained(work, place)
        count = sum(parameter.numel() for parameter in family.parameters())
        return {
            "folder": str(folder),
            "members": family.space.count,
            "parameters": count,
            "epochs": plan.epochs,
        }


def search_verb(folder: Path, overrides: Mapping[str, Any], *, tell: Tell = silent) -> Front:
    """Search the family in `folder`, with other settings of the search if some are given.

    Raises:
        InputError: there is no run in the folder, or an override is not of the search.
        StorageError: no family was trained there.
    """
    config = _updated(folder, overrides)
    with _reopened(config, folder, tell, verb="search") as work:
        family, plan = _family_and_plan(work)
        wanted = config.search.evaluations or plan.evaluations
        plan = Plan(**{**vars(plan), "evaluations": wanted})
        work.store().close()  # a damaged store is told before anything is written
        write_json(folder / "plan.json", vars(plan))
        save_config(config, folder / CONFIG)
        (folder / RESULT).unlink(missing_ok=True)
        return find_front(work, family, plan)


def extract_verb(
    folder: Path, budget: Mapping[str, float], name: str, *, tell: Tell = silent
) -> Manifest:
    """Take the best member within `budget` out of the family into `members/NAME/`.

    Raises:
        BudgetError: no member of the front fits; its `nearest` is the one that misses by least.
        InputError: there is no run, a cost of the budget is unknown, or the name is no name.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"the name {name!r} must be that of a folder, such as small")
    with _reopened(saved_config(folder), folder, tell) as work:
        front = read_front(work)
        record = front.best(**budget)
        _check_free(folder / "members" / name, record)
        family, _ = _family_and_plan(work)
        plain = "transformers" in work.config.deploy.formats
        formats = ("transformers",) if plain else ("safetensors",)
        return ship_one(work, family, name, record, front, formats=formats)


def _check_free(folder: Path, record: Record) -> None:
    taken = (folder / "manifest.json").is_file()
    if taken and read_manifest(folder).arch != record.arch.to_json():
        raise InputError(
            f"{folder} holds another member already; give this one another name with --name"
        )


def export_verb(
    folder: Path, name: str, formats: tuple[str, ...], *, tell: Tell = silent
) -> Manifest:
    """Write a member that was taken out in more formats.

    Raises:
        InputError: there is no run, or no member of that name.
    """
    config = saved_config(folder)
    known = sorted(path.parent.name for path in (folder / "members").glob("*/manifest.json"))
    if name not in known:
        has = f"it has {', '.join(known)}" if known else "it has none yet"
        raise InputError(
            f"{folder} has no member {name!r}; {has}; take one out with "
            f"`manynet extract {folder} --name {name}`"
        )
    with _reopened(config, folder, tell) as work:
        family, _ = _family_and_plan(work)
        return export_again(work, family, name, formats)


def trained_family(folder: Path, *, tell: Tell = silent) -> Trained:
    """Return the family that was trained in `folder`, its front, and what prepares its members.

    Raises:
        InputError: there is no run in the folder.
        StorageError: no family was trained there, or no front was found.
    """
    with _reopened(saved_config(folder), folder, tell) as work:
        front = read_front(work)
        family, _ = _family_and_plan(work)
        work.samples  # noqa: B018 - read now: the run may go on elsewhere later
        inputs = moved(work.material.example_inputs(), work.device)
        return Trained(family, front, inputs, work.calibrated)


def report_verb(folder: Path) -> Path:
    """Write the page of a run anew. Raises `InputError` where there is no run."""
    saved_config(folder)
    return write_report(folder)


# -- opening -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(
    verb: str,
    config: Config,
    folder: Path,
    tell: Tell,
    *,
    material: Material | None = None,
    quality: Quality | None = None,
    loss: Loss | None = None,
) -> Iterator[Work]:
    """Open a new or begun run; a new one that fails before it has computed leaves nothing."""
    if verb != "train":
        refuse_launch(verb)
    check_names(config)
    material = material or from_config(config)
    fresh, made = not is_run(folder), [f for f in (folder, folder.parent) if not f.exists()]
    with held(folder):
        try:
            open_folder(folder, config)
            with Diary(folder, verb, tell, RESULT) as diary:
                work = Work(folder, config, material, diary.tell, quality, loss)
                check_counters(config, work.device)
                with own_state(config.seed, int(work.environment["threads"])):
                    yield work
        except ManynetError:
            if fresh and not (folder / "checkpoints" / "start").exists():
                _forget(folder, made)
            raise


def _forget(folder: Path, made: list[Path]) -> None:
    for name in (CONFIG, ENVIRONMENT, PROGRESS, LOCK):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    for empty in made:
        with contextlib.suppress(OSError):
            empty.rmdir()


@contextlib.contextmanager
def _reopened(config: Config, folder: Path, tell: Tell, *, verb: str = "") -> Iterator[Work]:
    """Open a run whose family is trained; a verb that takes long writes down how far it is."""
    if not (folder / "family.json").is_file():
        raise StorageError(
            f"{folder} holds no trained family yet; finish the training first: "
            f"manynet train {folder}"
        )
    refuse_launch(verb or "extract")
    check_names(config)
    with held(folder), Diary(folder, verb, tell) as diary:
        work = Work(folder, config, from_config(config), diary.tell if verb else tell)
        check_counters(config, work.device)
        with own_state(config.seed, int(work.environment["threads"])):
            yield work


def _updated(folder: Path, overrides: Mapping[str, Any]) -> Config:
    """Return the run's config with other settings of its search."""
    other = [key for key in overrides if not key.startswith("search.") and key != "budget"]
    if other:
        raise InputError(
            f"{other[0]} was settled when the family was trained; start another run for it"
        )
    return resolve(saved_config(folder).to_dict(), overrides)


# -- stages ------------------------------------------------------------------------------------


def _trained(work: Work, place: Hardware | None = None) -> tuple[Family, Plan]:
    with before_training(place):
        family = convert(work)
        plan = plan_for(work.folder, work.config, lambda: pace_of(work))
    send_to_helpers(place, work, plan)
    return train_family(work, family, plan), plan


def _family_and_plan(work: Work) -> tuple[Family, Plan]:
    family = load(work.folder, model=work.material.network.form()).to(work.device).eval()
    torch.set_num_threads(threads_for(work, family))
    return family, plan_for(work.folder, work.config, lambda: pace_of(work))


def _page(work: Work) -> None:
    step = work.progress("write the page")
    step(0, 1, "")
    write_report(work.folder)
    step(1, 1, str(work.folder / "report.html"))


def _summary(work: Work, family: Family, front: Front) -> dict[str, Any]:
    """Return what came out, as JSON values; the ends of the space are looked at on test data."""
    ends = {"largest": family.space.largest, "smallest": family.space.smallest}
    test = {
        name: test_figures(work, work.calibrated(family.extract(arch).eval()))
        for name, arch in ends.items()
    }
    names = chosen(work, front)
    return {
        "folder": str(work.folder),
        "model": work.config.model,
        "data": work.config.data.name,
        "seed": work.config.seed,
        "budget": work.config.budget,
        "budget_met": "nearest" not in names,
        "space": family.space.count,
        "metric": front.metric,
        "front": [_document(record) for record in front],
        "members": {name: _shipped(work, name) for name in names},
        "ends": test,
        "report": str(work.folder / "report.html"),
    }


def _document(record: Record) -> dict[str, Any]:
    return {"arch": record.arch.to_json(), "quality": record.quality, "costs": dict(record.costs)}


def _shipped(work: Work, name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json(work.folder / "members" / name / "manifest.json")
    kept = ("arch", "quality", "metric", "costs", "notes")
    files = {one["name"]: one.get("difference") for one in manifest["files"]}
    return {key: manifest.get(key) for key in kept} | {"files": files}


def _result(work: Work) -> RunResult:
    """Return what a finished run left, or say that its budget was not met."""
    summary = read_json(work.folder / RESULT)
    front = read_front(work)
    if not summary["budget_met"]:
        _raise_over(front, work)
    name = list(summary["members"])[-1]
    family, _ = _family_and_plan(work)
    member, manifest = _member(work, family, name)
    record = next(r for r in front if r.arch.to_json() == dict(manifest.arch or {}))
    return RunResult(member, front, record, work.folder, work.folder / "report.html", summary)


def _raise_over(front: Front, work: Work) -> None:
    try:
        front.best(**work.config.budget)
    except BudgetError as error:
        raise BudgetError(
            f"{error}; all else of the run is done, see {work.folder / 'report.html'}",
            error.nearest,
        ) from None


def _member(work: Work, family: Family, name: str) -> tuple[Any, Manifest]:
    return load_member(work, family, name)
