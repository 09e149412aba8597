"""Text for language models: `text:FILE`, tokenized, packed into sequences of one length.

Letters of shapes: `B` batch, `T` tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from manynet.data._data import Data, Samples
from manynet.data._folder import SPLITS
from manynet.data._split import Options
from manynet.errors import InputError

__all__ = [
    "IGNORED",
    "LabeledTexts",
    "MaskedTokens",
    "TextData",
    "TextOptions",
    "Tokenizer",
    "text_data",
]

IGNORED = -100
"""The label of a position that no loss and no metric looks at."""

_PIECE = 1 << 20  # characters that are tokenized at once


@dataclass(frozen=True)
class TextData(Data):
    """Text, split and tokenized.

    Attributes:
        task: what the targets are: `causal` for each next token, `masked` for the masked ones,
            `classify` for the class of a text.
        tokenizer: what made the tokens.
    """

    task: str = "causal"
    tokenizer: Any = None


class Tokenizer(Protocol):
    """What is needed of a tokenizer; those of `transformers` have it."""

    eos_token_id: int | None
    sep_token_id: int | None
    cls_token_id: int | None
    pad_token_id: int | None
    mask_token_id: int | None

    def __call__(self, text: Any, **options: Any) -> Mapping[str, Any]:
        """Return `input_ids` of one text or of several."""
        ...

    def __len__(self) -> int:
        """Return how many tokens there are."""
        ...


@dataclass(frozen=True)
class TextOptions:
    """How text becomes samples.

    Args:
        tokenizer: of the model.
        length: tokens in a sequence; texts with a label are cut to it.
        task: `causal` for the next token, `masked` for masked ones.
    """

    tokenizer: Tokenizer
    length: int = 256
    task: str = "causal"


def text_data(pattern: str, options: Options, how: TextOptions) -> Data:
    """Return text files as data; see `manynet.load_data`.

    Raises:
        InputError: there is no such file, or too little text in it.
    """
    if how.length < 2:
        raise InputError(f"length is {how.length}; a sequence needs at least 2 tokens")
    files = _files(pattern)
    if all(file.suffix == ".tsv" for file in files):
        return _labeled(files, options, how)
    return _packed(files, options, how)


def _files(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [f for end in ("*.txt", "*.jsonl", "*.tsv") for f in path.glob(end)]
    else:
        found = list(path.parent.glob(path.name)) if path.parent.is_dir() else []
    if not found:
        raise InputError(
            f"text:{pattern}: there is no such file or folder (looked at {path.resolve()}); give a "
            ".txt, .jsonl or .tsv file, a folder of them, or a pattern such as 'text:sst2-*.tsv'"
        )
    if len({file.suffix == ".tsv" for file in found}) > 1:
        raise InputError(f"text:{pattern} holds .tsv files and others; name one kind")
    return sorted(found)


def _by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort files into splits by the words in their names; all are for training where none says."""
    words = {word: split for split, names in SPLITS.items() for word in names}
    found: dict[str, list[Path]] = {}
    for file in files:
        parts = file.stem.lower().replace("_", "-").replace(".", "-").split("-")
        split = next((words[part] for part in parts if part in words), "train")
        found.setdefault(split, []).append(file)
    return found if "train" in found and len(found) > 1 else {"train": list(files)}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not text in UTF-8 ({error.reason})") from error


# -- running text ------------------------------------------------------------------------------


def _packed(files: Sequence[Path], options: Options, how: TextOptions) -> Data:
    """Join documents with the end token and cut them into sequences without gaps."""
    sets = {split: _sequences(part, how) for split, part in _by_split(files).items()}
    if options.limit is not None:
        sets["train"] = sets["train"][: options.limit]
    sets = _held_out(sets, options.validation, options.name)
    make = _masked if how.task == "masked" else _next_token
    return TextData(
        train=make(sets["train"], how, False),
        val=make(sets["val"], how, True),
        test=make(sets["test"], how, True),
        classes=(),
        input_shape=(how.length,),
        name=options.name,
        origin=f"text in {', '.join(file.name for file in files[:3])}",
        task=how.task,
        tokenizer=how.tokenizer,
    )


def _sequences(files: Iterable[Path], how: TextOptions) -> Tensor:
    """Return rows of tokens; one of `causal` has a token more, which is the last one's label."""
    tokens = list(_tokens(files, how.tokenizer))
    flat = torch.tensor(tokens, dtype=torch.long)
    if how.task == "masked":
        ends = [how.tokenizer.cls_token_id, how.tokenizer.sep_token_id]
        inner = how.length - sum(end is not None for end in ends)
        rows = flat[: len(flat) // inner * inner].view(-1, inner)
        sides = [None if e is None else torch.full((len(rows), 1), e) for e in ends]
        parts = [part for part in (sides[0], rows, sides[1]) if part is not None]
        return torch.cat(parts, dim=1)
    count = max(0, (len(flat) - 1) // how.length)
    return (
        flat[: count * how.length + 1].unfold(0, how.length + 1, how.length)
        if count
        else (torch.empty(0, how.length + 1, dtype=torch.long))
    )


def _tokens(files: Iterable[Path], tokenizer: Tokenizer) -> Iterator[int]:
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    for document in _documents(files):
        for piece in _pieces(document):
            yield from tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        if end is not None:
            yield end


def _documents(files: Iterable[Path]) -> Iterator[str]:
    """Yield each text file as one document, each line of a .jsonl file as one."""
    for file in files:
        text = _read(file)
        if file.suffix != ".jsonl":
            yield text
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                yield str(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{file}, line {number}: each line of a .jsonl file is a mapping with the key "
                    "'text'"
                ) from error


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces that end with a line, so that a long one needs little memory."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def _held_out(sets: dict[str, Tensor], share: float, name: str) -> dict[str, Tensor]:
    """Hold the end of the text out where there is no validation or test split."""
    for split in ("test", "val"):
        if split not in sets:
            rows = sets["train"]
            held = max(1, round(len(rows) * share))
            sets["train"], sets[split] = rows[: len(rows) - held], rows[len(rows) - held :]
    short = [split for split, rows in sets.items() if not len(rows)]
    if short:
        raise InputError(
            f"{name} has too little text for sequences of this length (none is left for "
            f"{short[0]}); give more text, or a smaller length"
        )
    return {split: sets[split] for split in ("train", "val", "test")}


def _next_token(rows: Tensor, how: TextOptions, fixed: bool) -> Samples:
    return TensorDataset(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def _masked(rows: Tensor, how: TextOptions, fixed: bool) -> Samples:
    made = MaskedTokens(rows, how.tokenizer)
    if not fixed:
        return made
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return TensorDataset(*made.batch(torch.arange(len(rows))))


class MaskedTokens(Dataset[tuple[Tensor, ...]]):
    """Sequences of which other tokens are masked each time that they are taken.

    Of the share that is to be guessed, eight in ten become the mask token, one in ten another
    token, and one in ten stays.

    Args:
        rows: tokens of shape `(N, T)`.
        tokenizer: says which token is the mask, and which are never masked.
        share: of the tokens to guess.

    Reference: Devlin et al., "BERT", 2018, arXiv 1810.04805.
    """

    def __init__(self, rows: Tensor, tokenizer: Tokenizer, share: float = 0.15) -> None:
        if tokenizer.mask_token_id is None:
            raise InputError(
                "the tokenizer has no mask token, so the model cannot guess masked ones; use "
                "task=causal"
            )
        self.rows = rows
        self.mask = tokenizer.mask_token_id
        self.count = len(tokenizer)
        self.share = share
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        self.special = torch.tensor([end for end in ends if end is not None])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        tokens, labels = self.batch(torch.tensor([index]))
        return tokens[0], labels[0]

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return tokens with masks, and the labels, `IGNORED` where nothing is to be guessed.

        Shapes: both `(B, T)`.
        """
        rows = self.rows[indices]
        chance = torch.rand(rows.shape)
        guessed = (chance < self.share) & ~torch.isin(rows, self.special)
        labels = torch.where(guessed, rows, IGNORED)
        way = torch.rand(rows.shape)
        tokens = torch.where(guessed & (way < 0.8), self.mask, rows)
        others = torch.randint(self.count, rows.shape)
        tokens = torch.where(guessed & (way >= 0.8) & (way < 0.9), others, tokens)
        return tokens.to(device), labels.to(device)


# -- texts with a label ------------------------------------------------------------------------


def _labeled(files: Sequence[Path], options: Options, how: TextOptions) -> Data:
    """Return the rows `text<TAB>label` of files as texts to classify."""
    rows = {s: [r for f in fs for r in _rows(f)] for s, fs in _by_split(files).items()}
    classes = _classes(rows["train"])
    if options.limit is not None:
        rows["train"] = _shuffled(rows["train"], options.seed)[: options.limit]
    for split in ("test", "val"):
        if split not in rows:
            mixed = _shuffled(rows["train"], options.seed)
            held = max(1, round(len(mixed) * options.validation))
            rows["train"], rows[split] = mixed[held:], mixed[:held]
    number = {name: index for index, name in enumerate(classes)}
    sets = {
        split: LabeledTexts.of(part, number, how, f"{options.name}, {split} split")
        for split, part in rows.items()
    }
    return TextData(
        train=sets["train"],
        val=sets["val"],
        test=sets["test"],
        classes=classes,
        input_shape=(how.length,),
        name=options.name,
        origin=f"texts with labels in {', '.join(file.name for file in files[:3])}",
        task="classify",
        tokenizer=how.tokenizer,
    )


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_read(file).splitlines(), start=1):
        text, separator, label = line.rpartition("\t")
        if not separator or not label.strip():
            raise InputError(f"{file}, line {number}: should be TEXT<TAB>LABEL, and is {line!r}")
        if number == 1 and label.strip().lower() in ("label", "labels"):
            continue  # a header
        yield text, label.strip()


def _classes(rows: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    found = {label for _, label in rows}
    if len(found) < 2:
        raise InputError(f"the training texts have {len(found)} labels; there must be at least 2")
    numbers = all(label.isdigit() for label in found)
    return tuple(sorted(found, key=int) if numbers else sorted(found))


def _shuffled(rows: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return [rows[index] for index in order.tolist()]


class LabeledTexts(Dataset[tuple[Tensor, ...]]):
    """Texts and their classes; a batch is as long as its longest text.

    Args:
        tokens: padded, of shape `(N, T)`.
        lengths: tokens of each text, of shape `(N,)`.
        targets: classes, of shape `(N,)`.
    """

    def __init__(self, tokens: Tensor, lengths: Tensor, targets: Tensor) -> None:
        self.tokens, self.lengths, self.targets = tokens, lengths, targets

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[str, str]],
        number: Mapping[str, int],
        how: TextOptions,
        where: str,
    ) -> LabeledTexts:
        """Tokenize texts and look their labels up.

        Raises:
            InputError: there is no text, or a label is not one of the training texts'.
        """
        if not rows:
            raise InputError(f"{where} is empty")
        unknown = sorted({label for _, label in rows} - number.keys())
        if unknown:
            raise InputError(f"{where}: no training text has the label {unknown[0]!r}")
        texts = [text for text, _ in rows]
        found = how.tokenizer(texts, truncation=True, max_length=how.length)["input_ids"]
        lengths = torch.tensor([len(ids) for ids in found])
        pad = how.tokenizer.pad_token_id
        if pad is None:
            pad = how.tokenizer.eos_token_id or 0
        tokens = torch.full((len(found), int(lengths.max())), pad)
        for row, ids in zip(tokens, found, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        return cls(tokens, lengths, torch.tensor([number[label] for _, label in rows]))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        tokens, length = self.tokens[index], self.lengths[index]
        mask = (torch.arange(len(tokens)) < length).long()
        return {"input_ids": tokens, "attention_mask": mask}, self.targets[index]

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Any:
        """Return named inputs and classes.

        Shapes: `input_ids` and `attention_mask` of `(B, T)`, classes `(B,)`.
        """
        lengths = self.lengths[indices]
        tokens = self.tokens[indices][:, : int(lengths.max())]
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        inputs = {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}
        return inputs, self.targets[indices].to(device)
