"""The end of a run: members taken out of the family, tuned if it pays, exported and verified."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from manynet.deploy import Manifest, export_member, load_plain, load_weights, read_manifest
from manynet.errors import BudgetError, InputError
from manynet.family import Family
from manynet.run._family import train_alone
from manynet.run._plan import Plan
from manynet.run._work import Work
from manynet.search import Front, Record

__all__ = ["NAMES", "chosen", "export_again", "load_member", "ship", "ship_one", "test_figures"]

NAMES = {1: ("small",), 2: ("small", "large"), 3: ("small", "medium", "large")}
_TUNING_RATE = 0.1
"""Share of the family's learning rate that a last fine-tuning begins with."""


def chosen(work: Work, front: Front) -> dict[str, Record]:
    """Return the members to ship: the best within the budget, else some spread over the front."""
    if work.config.budget:
        try:
            return {"best": front.best(**work.config.budget)}
        except BudgetError as error:
            if not isinstance(error.nearest, Record):
                raise
            return {"nearest": error.nearest}
    records = front.pick(work.config.deploy.members)
    return dict(zip(NAMES[len(records)], records, strict=True))


def ship(work: Work, family: Family, front: Front, plan: Plan) -> dict[str, Manifest]:
    """Export the chosen members; one that is there already is left as it is."""
    records = chosen(work, front)
    step = work.progress("export members")
    shipped = {}
    for number, (name, record) in enumerate(records.items()):
        step(number, len(records), name)
        shipped[name] = _shipped_before(work, name, record) or ship_one(
            work, family, name, record, front, fine_tune_epochs=plan.fine_tune_epochs
        )
    step(len(records), len(records), ", ".join(records))
    return shipped


def _shipped_before(work: Work, name: str, record: Record) -> Manifest | None:
    folder = work.folder / "members" / name
    if not (folder / "manifest.json").is_file():
        return None
    manifest = read_manifest(folder)
    return manifest if manifest.arch == record.arch.to_json() else None


def ship_one(
    work: Work,
    family: Family,
    name: str,
    record: Record,
    front: Front,
    *,
    fine_tune_epochs: int = 0,
    formats: tuple[str, ...] | None = None,
) -> Manifest:
    """Take one member out, tune it if that pays, and write `members/NAME/`."""
    member = work.calibrated(family.extract(record.arch).eval())
    quality, tuned = record.quality, False
    if fine_tune_epochs:
        member, quality, tuned = _tuned(
            work, member, record, front, epochs=fine_tune_epochs, name=name
        )
    return _export(
        work,
        member,
        name,
        formats or work.config.deploy.formats,
        arch=record.arch.to_json(),
        costs=dict(record.costs),
        quality=quality,
        metric=front.metric,
        notes={**test_figures(work, member), "fine_tuned": tuned},
    )


def _export(
    work: Work, member: nn.Module, name: str, formats: tuple[str, ...], **kept: Any
) -> Manifest:
    config = work.config.deploy
    int8 = config.int8 and "onnx" in formats
    return export_member(
        member,
        work.folder / "members" / name,
        work.material.real_inputs(),
        formats=formats,  # type: ignore[arg-type] # checked by the config
        int8=work.samples if int8 else None,
        int4=config.int4 and "onnx" in formats,
        test=work.tester() if int8 or config.int4 else None,
        tolerance=config.tolerance,
        tokenizer=work.material.tokenizer,
        **kept,
    )


def _tuned(
    work: Work, member: nn.Module, record: Record, front: Front, *, epochs: int, name: str
) -> tuple[nn.Module, float, bool]:
    """Train the member alone for a while; return the better of the two on validation data."""
    folder = work.folder / "checkpoints" / f"tune-{record.arch.key}"
    other = train_alone(
        work, copy.deepcopy(member), f"fine-tune {name}", epochs, folder, rate=_TUNING_RATE
    )
    other = work.calibrated(other)
    quality = float(work.metric(other))
    sign = 1.0 if front.higher_is_better else -1.0
    if sign * quality > sign * record.quality:
        return other, quality, True
    return member, record.quality, False


def test_figures(work: Work, member: nn.Module) -> dict[str, float]:
    """Return the member's quality on the test data, which nothing else has looked at."""
    judge = work.tester()
    return {} if judge is None else {f"test_{judge.name}": float(judge(member))}


def load_member(work: Work, family: Family, name: str) -> tuple[nn.Module, Manifest]:
    """Return a member that was shipped, with the weights in its file.

    Raises:
        InputError: there is no member of that name, or its weights were not kept.
    """
    folder = work.folder / "members" / name
    manifest = read_manifest(folder)
    if any(record.format == "transformers" for record in manifest.files):
        return load_plain(folder).to(work.device), manifest
    if manifest.arch is None or not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{folder} holds no arch or no model.safetensors; take the member out again with "
            "`manynet extract`"
        )
    member = family.extract(manifest.arch).eval()
    member.load_state_dict(load_weights(folder / "model.safetensors"))
    return member, manifest


def export_again(work: Work, family: Family, name: str, formats: tuple[str, ...]) -> Manifest:
    """Write the files of a shipped member anew, in its formats and the ones asked for."""
    member, manifest = load_member(work, family, name)
    before = [record.format for record in manifest.files if record.format in _FORMATS]
    return _export(
        work,
        member,
        name,
        tuple(dict.fromkeys([*formats, *before])),
        arch=manifest.arch,
        costs=manifest.costs,
        quality=manifest.quality,
        metric=manifest.metric,
        notes=manifest.notes,
    )


_FORMATS = ("onnx", "torch", "safetensors", "transformers")
