"""Text as characters: a tokenizer that needs no files, and the small text that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manynet.data._local import local_places
from manynet.errors import InputError

__all__ = ["Characters", "shakespeare"]

FILE = "tinyshakespeare.txt"


class Characters:
    """A tokenizer whose tokens are the characters of a text, in the order of their code points.

    Args:
        text: whose characters are known.

    Raises:
        InputError: the text is empty, or (when it is called) a character is not known.

    Example:
        >>> tokenizer = Characters("abba")
        >>> tokenizer("baa")["input_ids"], len(tokenizer)
        ([1, 0, 0], 2)
    """

    eos_token_id: int | None = None
    sep_token_id: int | None = None
    cls_token_id: int | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None

    def __init__(self, text: str) -> None:
        if not text:
            raise InputError("a tokenizer of characters needs a text that has some")
        self.characters = tuple(sorted(set(text)))
        self._numbers = {character: number for number, character in enumerate(self.characters)}

    def __call__(self, text: Any, **options: Any) -> Mapping[str, Any]:
        """Return `input_ids` of one text or of several; the options of other tokenizers pass."""
        if not isinstance(text, str):
            return {"input_ids": [self._encoded(one) for one in text]}
        return {"input_ids": self._encoded(text)}

    def __len__(self) -> int:
        """Return how many characters are known."""
        return len(self.characters)

    def _encoded(self, text: str) -> list[int]:
        try:
            return [self._numbers[character] for character in text]
        except KeyError as error:
            raise InputError(
                f"the character {error.args[0]!r} is none of the {len(self)} of the text that this "
                "tokenizer was made of; make it of all the text that it shall read"
            ) from error

    def decode(self, numbers: Any) -> str:
        """Return the text of token numbers."""
        return "".join(self.characters[int(number)] for number in numbers)


def shakespeare(folder: Path | None) -> Path:
    """Return the file of tiny-shakespeare, a million characters of plays.

    Looked for in `folder`, in `$MANYNET_DATA/text` and in `../shared/data/text`.

    Raises:
        InputError: it is in none of them.
    """
    places = [place / FILE for place in local_places("text", folder)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(
            f"{FILE} is in none of {', '.join(str(place.parent) for place in places)}; put a copy "
            "there (it is `input.txt` of the char-rnn repository), or pass folder="
        )
    return found
