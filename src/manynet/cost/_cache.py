"""What generating text costs: the bytes of the key-value cache, and the time of one token.

Letters of shapes: `B` batch, `T` tokens.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import Example, Inputs, device_of, evaluating, positional, with_batch
from manynet.cost._cost import Cost
from manynet.cost._latency import LatencyCost, latency
from manynet.errors import InputError

__all__ = ["KvCache", "TokenLatency", "kv_cache_bytes", "token_latency"]

_SEEN = 2  # tokens that a cache is filled with to see what one takes


@dataclass(frozen=True)
class KvCache(Cost):
    """The cost that `kv_cache_bytes` makes."""

    tokens: int = 2048


@dataclass(frozen=True)
class TokenLatency(LatencyCost):
    """The cost that `token_latency` makes."""

    tokens: int = 256

    def prepared(self, member: nn.Module, example_inputs: Example) -> Callable[[], object]:
        """Return a function that decodes one token, after as many as are in the cache."""
        ids = _ids(with_batch(positional(member, example_inputs), self.batch), self.tokens)
        device = torch.device(self.device)
        if device_of(member).type != device.type:
            member = copy.deepcopy(member).to(device)
        ids = ids.to(device_of(member))
        with torch.no_grad():
            cache = _filled(member, ids)
        name = _argument(member)

        def decode() -> None:
            member(input_ids=ids[:, -1:], use_cache=True, **{name: cache})
            cache.crop(-1)

        return decode


def kv_cache_bytes(*, tokens: int = 2048) -> Cost:
    """Cost: bytes of the keys and values that a language model keeps for one text while it writes.

    The model runs on two tokens with a cache, and what it keeps is counted: its own heads, head
    size, layers and type of number. Layers with a window keep no more tokens than the window.

    Args:
        tokens: length of the text.

    Raises:
        InputError: when called: the network keeps no cache.

    Example:
        >>> kv_cache_bytes(tokens=1000).name
        'kv_cache_bytes'
    """
    if tokens < 1:
        raise InputError(f"kv_cache_bytes(tokens={tokens}) should be at least 1")

    def function(member: nn.Module, inputs: Inputs) -> float:
        ids = _ids(with_batch(inputs, 1), _SEEN).to(device_of(member))
        with evaluating(member), torch.no_grad():
            cache = _filled(member, ids)
        total = 0
        for values, window in _kept(cache):
            one = values.numel() * values.element_size() // values.shape[-2]
            total += one * (tokens if window is None else min(tokens, window))
        return float(total)

    return KvCache("kv_cache_bytes", "bytes", function, tokens=tokens)


def token_latency(
    device: str | torch.device = "cpu",
    *,
    tokens: int = 256,
    threads: int = 1,
    batch: int = 1,
    warmup: int = 3,
    repeats: int = 20,
    time_limit_s: float = 2.0,
    precision: float = 0.01,
) -> TokenLatency:
    """Cost: the median time in which a language model writes one more token, in milliseconds.

    Args:
        device: where to run; a network that is elsewhere is copied there.
        tokens: how many are in the key-value cache already.
        threads: of PyTorch.
        batch: texts that are written at once.
        warmup: passes before the clock starts.
        repeats: passes between two looks at the spread.
        time_limit_s: when to stop looking for a smaller spread.
        precision: stop once the median's standard error is below this share of it.

    Raises:
        InputError: as `latency` does; when called: the network keeps no cache.

    Example:
        >>> token_latency(tokens=100).name
        'token_ms'
    """
    if tokens < 1:
        raise InputError(f"token_latency(tokens={tokens}) should be at least 1")
    pass_ = latency(
        device,
        threads=threads,
        batch=batch,
        warmup=warmup,
        repeats=repeats,
        time_limit_s=time_limit_s,
        precision=precision,
    )

    def function(member: nn.Module, inputs: Inputs) -> float:
        return made.measure(member, inputs).median_ms

    made = TokenLatency(
        "token_ms",
        "ms",
        function,
        measured=True,
        timed=True,
        device=pass_.device,
        threads=threads,
        batch=batch,
        warmup=warmup,
        repeats=repeats,
        time_limit_s=time_limit_s,
        precision=precision,
        tokens=tokens,
    )
    return made


def _ids(inputs: Inputs, count: int) -> Tensor:
    """Return `count` tokens of the example inputs' texts, repeated where they are too short."""
    ids = next((v for v in inputs if isinstance(v, Tensor)), None)
    if ids is None or ids.dim() != 2 or ids.is_floating_point() or not ids.numel():
        raise InputError(
            "the cost of generating needs tokens of shape (B, T) as the first of the example "
            "inputs; give those of a language model"
        )
    return ids.repeat(1, -(-count // ids.shape[1]))[:, :count]


def _argument(member: nn.Module) -> str:
    """Return what a network calls its cache; `transformers` has changed the name."""
    known = inspect.signature(member.forward).parameters
    found = next((name for name in ("cache", "past_key_values") if name in known), None)
    if found is None or "use_cache" not in known:
        raise InputError(
            f"{type(member).__name__} keeps no key-value cache, so it does not write token after "
            "token; measure latency() instead"
        )
    return found


def _filled(member: nn.Module, ids: Tensor) -> Any:
    """Return the cache of a network after these tokens."""
    name = _argument(member)
    try:
        found = getattr(member(input_ids=ids, use_cache=True), name, None)
    except (RuntimeError, IndexError, ValueError) as error:
        raise InputError(
            f"{type(member).__name__} cannot run on {ids.shape[1]} tokens with a cache: "
            f"{str(error).splitlines()[0]}; ask for fewer tokens"
        ) from error
    if not hasattr(found, "layers"):
        raise InputError(
            f"{type(member).__name__} returned no cache of transformers "
            f"({type(found).__name__}); measure latency() instead"
        )
    return found


def _kept(cache: Any) -> Iterator[tuple[Tensor, int | None]]:
    """Yield keys and values of each layer, and the most tokens that it keeps."""
    for layer in cache.layers:
        window = getattr(layer, "sliding_window", None)
        for values in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if isinstance(values, Tensor) and values.numel():
                yield values, window
