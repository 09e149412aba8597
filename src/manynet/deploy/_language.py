"""A member as a folder that plain `transformers` loads, verified before it appears."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import Inputs, device_of, evaluating, moved, with_batch
from manynet.deploy._manifest import FileRecord
from manynet.deploy._plain import plain_model
from manynet.deploy._verify import compared
from manynet.errors import VerificationError
from manynet.models.language import library, quiet

__all__ = ["load_plain", "write_plain"]

_WRITTEN = 8  # tokens that file and member write after the same beginning


def write_plain(
    member: nn.Module, folder: Path, inputs: Inputs, *, tolerance: float, tokenizer: Any = None
) -> list[FileRecord]:
    """Write `config.json`, `model.safetensors` and the tokenizer's files into `folder`.

    What was written is loaded again by `transformers` alone; its outputs on the inputs must be the
    member's, and so must the tokens that it writes with its cache.

    Args:
        member: a network with a `config`.
        folder: an empty folder.
        inputs: real inputs that fit.
        tolerance: the largest difference allowed, as a share of the largest output above 1.
        tokenizer: written beside it, if there is one.

    Returns:
        The record of each file.

    Raises:
        InputError: no config describes the member.
        VerificationError: what was written is not what the member computes.
    """
    model: Any = plain_model(member)
    model.config.use_cache = True
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    again = load_plain(folder)
    difference = _difference(member, again, with_batch(inputs, 2), tolerance)
    if hasattr(again, "generate") and again.can_generate():
        _check_text(member, again, inputs)
    return [_record(file, difference, tolerance) for file in sorted(folder.iterdir())]


def load_plain(folder: Path) -> Any:
    """Return the model of a folder that `write_plain` wrote, in eval mode, on the CPU."""
    transformers = library()
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    cls = getattr(transformers, config.architectures[0])
    with quiet():
        model = cls.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    model.config.use_cache = False  # as the members of a family; `generate` asks for its cache
    return model.eval()


def _record(file: Path, difference: float, tolerance: float) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    weights = file.suffix == ".safetensors"
    checked = (difference, tolerance) if weights else (None, None)
    return FileRecord(file.name, "transformers", digest.hexdigest(), size, *checked)


@torch.no_grad()
def _difference(member: nn.Module, again: nn.Module, inputs: Inputs, tolerance: float) -> float:
    with evaluating(member):
        wanted = member(*moved(inputs, device_of(member)))
    found = again(*moved(inputs, torch.device("cpu")))
    worst = compared(wanted, found, "what transformers loads")
    if not worst <= tolerance:
        raise VerificationError(
            f"what transformers loads differs from {type(member).__name__} by {worst:.3g} on these "
            f"inputs, and {tolerance:g} is allowed; nothing was written"
        )
    return worst


@torch.no_grad()
def _check_text(member: nn.Module, again: Any, inputs: Inputs) -> None:
    """Let the member write without a cache and the file with one; both must write the same."""
    ids = next(value for value in inputs if isinstance(value, Tensor))[:1, :8].cpu()
    settings = {"do_sample": False, "num_beams": 1, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    found = again.generate(
        ids, attention_mask=mask, min_new_tokens=_WRITTEN, max_new_tokens=_WRITTEN, **settings
    )
    wanted = ids.to(device_of(member))
    with evaluating(member):
        for _ in range(_WRITTEN):
            logits = member(wanted).logits[:, -1]
            wanted = torch.cat([wanted, _likeliest(logits, found[:, wanted.shape[1]])], dim=1)
    if not torch.equal(wanted.cpu(), found):
        raise VerificationError(
            f"what transformers loads writes {found[0].tolist()} and {type(member).__name__} "
            f"{wanted[0].tolist()} after the same {ids.shape[1]} tokens; nothing was written"
        )


def _likeliest(logits: Tensor, other: Tensor) -> Tensor:
    """Return the likeliest token; the other's, where the two are as likely up to rounding."""
    best = logits.max(dim=-1, keepdim=True)
    own = logits.gather(1, other.to(logits.device)[:, None])
    near = best.values - own <= 1e-4 * best.values.abs().clamp_min(1)
    return torch.where(near, other.to(logits.device)[:, None], best.indices)
