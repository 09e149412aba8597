"""Language models of `transformers` from local files: `hf:FOLDER`, `hf:FILE.gguf`, `hf:OWNER/NAME`.

Nothing is downloaded, no code of a model's repository is run, and weights are read from
safetensors or gguf only, never from pickle.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from manynet.errors import InputError, MissingExtraError, StorageError, did_you_mean

__all__ = ["Kind", "kind_of", "language_model", "library", "positions_of", "quiet", "tokenizer_of"]

Kind = Literal["causal", "masked", "classify", "base"]
"""What a language model is for: the next token, masked tokens, a text's class, or its features."""

_CLASSES: dict[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "classify": "AutoModelForSequenceClassification",
    "base": "AutoModel",
}
_ENDINGS: dict[str, Kind] = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
    "ForSequenceClassification": "classify",
}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.*", "spiece.model", "*.tiktoken")
_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, ImportError, OverflowError, UnicodeError),
    *(MemoryError, struct.error, SafetensorError),
)
"""What transformers raises on files that are damaged or cut off, or of a kind it does not know."""
_POSITIONS = re.compile(r"(position_embeddings|embed_positions|wpe)\.weight$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


def library(name: str = "transformers") -> Any:
    """Import a library of the `language` extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, "language") from error


def language_model(
    name: str,
    *,
    task: Kind | None = None,
    num_labels: int | None = None,
    dtype: str = "float32",
    lora: int | None = None,
    checkpointing: bool = False,
) -> nn.Module:
    """Return a language model with its weights, from files on this machine.

    Its class is the one that its `config.json` names. A forward pass keeps no key-value cache
    unless it is asked to (`use_cache=True`), as training has no use for one.

    Args:
        name: a folder with `config.json` and safetensors, a `.gguf` file, or the name of a model
            in the local cache of the Hugging Face hub.
        task: what it is for, where the config's own class is not what you want.
        num_labels: classes of a new head, with `task="classify"`.
        dtype: of the weights.
        lora: rank of low-rank adapters to put on every linear layer but the output's; they alone
            are trained, and `manynet.models.merge_adapters` adds them to the weights.
        checkpointing: compute activations anew in the backward pass, which takes a third more
            time and a fraction of the memory.

    Raises:
        InputError: there is no such model here, or its weights are pickled.
        MissingExtraError: `transformers` (for `lora`, `peft`) is not installed.
    """
    transformers = library()
    folder, options = _located(name)
    kind = kind_of(name, task)
    labels = {} if num_labels is None else {"num_labels": num_labels}
    loader = getattr(transformers, _CLASSES[kind])
    with quiet():
        try:
            model = loader.from_pretrained(
                folder,
                dtype=_dtype(dtype),
                use_safetensors=None if "gguf_file" in options else True,
                local_files_only=True,
                trust_remote_code=False,
                **options,
                **labels,
            )
        except _UNREADABLE as error:
            first = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"hf:{name} cannot be read by transformers: {first}") from error
    model.config.use_cache = False
    if "gguf_file" in options:
        _forget_quantization(model)
    if lora is not None:
        from manynet.models.lora import add_adapters

        add_adapters(model, rank=lora)
    if checkpointing:
        old = model.gradient_checkpointing_enable  # its name before transformers 5.20 or so
        getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
        model.disable_input_require_grads()  # what is not reentrant needs no hook on the inputs
    return cast("nn.Module", model)


def _forget_quantization(model: Any) -> None:
    """Make a model of a `.gguf` file a plain one: its weights are numbers of full precision now."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
    for config in {
        id(m.config): m.config for m in model.modules() if hasattr(m, "config")
    }.values():
        config.__dict__.pop("quantization_config", None)


def tokenizer_of(name: str) -> Any:
    """Return the tokenizer that lies beside a model's weights; see `language_model`.

    Raises:
        InputError: there is none.
        MissingExtraError: `transformers` is not installed.
    """
    transformers = library()
    folder, options = _located(name)
    found = any(path for pattern in _TOKENIZERS for path in folder.glob(pattern))
    if not (found or options):  # without a file, transformers makes one that knows no word
        raise InputError(
            f"hf:{name}: {folder} has no tokenizer; put tokenizer.json and tokenizer_config.json "
            "beside config.json, as tokenizer.save_pretrained(folder) does"
        )
    with quiet():
        try:
            return transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
        except Exception as error:  # tokenizers raises nothing more special
            first = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the tokenizer of hf:{name} cannot be read by transformers: {first}"
            ) from error


def positions_of(name: str) -> int | None:
    """Return how many positions a model's table of them has; None where it has no such table.

    Raises:
        InputError: there is no such model here.
        StorageError: its weights cannot be read.
    """
    folder, options = _located(name)
    counts: list[int] = []
    for file in () if options else sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                names = [key for key in weights.keys() if _POSITIONS.search(key)]  # noqa: SIM118
                counts += [weights.get_slice(key).get_shape()[0] for key in names]
        except (SafetensorError, OSError) as error:
            raise StorageError(
                f"{file} cannot be read ({error}); it is damaged or cut off: copy it anew"
            ) from error
    return min(counts, default=None)


def kind_of(name: str, task: str | None = None) -> Kind:
    """Return what a model is for, as its config says; a `.gguf` file holds a causal one.

    Args:
        name: of the model.
        task: what it is for, where the user says so.

    Raises:
        InputError: there is no such model here, or no such task.
    """
    asked = _checked(task)
    if asked is not None:
        return asked
    folder, options = _located(name)
    if "gguf_file" in options:
        return "causal"
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for architecture in found.get("architectures") or ():
        for ending, kind in _ENDINGS.items():
            if architecture.endswith(ending):
                return kind
    return "base"


def _checked(task: str | None) -> Kind | None:
    if task is not None and task not in get_args(Kind):
        raise InputError(f"task={task!r} is unknown{did_you_mean(task, get_args(Kind))}")
    return cast("Kind | None", task)


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise InputError(f"dtype={name!r} is unknown{did_you_mean(name, known)}")
    return known[name]


def _located(name: str) -> tuple[Path, dict[str, str]]:
    """Return the folder of a model, and the options by which `transformers` finds its file."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"hf:{name}: there is no file {path.resolve()}; check the path")
        library("gguf")
        return path.parent, {"gguf_file": path.name}
    folder = path if path.is_dir() else _cached(name, path)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"hf:{name}: {folder} has no config.json; give the folder that a model was saved in "
            "with save_pretrained, or a .gguf file"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for end in _PICKLES for file in folder.glob(end))
        found = f"; it has {pickled[0]}, which may run code when it is read" if pickled else ""
        where = " where you trust it" if pickled else ""
        raise InputError(
            f"hf:{name}: {folder} has no *.safetensors{found}. Save the model with "
            f"model.save_pretrained(folder){where}"
        )
    return folder, {}


def _cached(name: str, path: Path) -> Path:
    """Return the folder of a model in the hub's local cache; nothing is downloaded."""
    hub = library("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, local_files_only=True))
    except Exception as error:  # the hub raises errors of many kinds for a name that is none
        raise InputError(
            f"hf:{name}: there is no folder {path.resolve()}, and no model of that name in the "
            f"local Hugging Face cache; manynet downloads nothing: `hf download {name}` does"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and notes to themselves for a while."""
    transformers = library()
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the bar of a .gguf file heeds no setting
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
